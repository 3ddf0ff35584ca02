//! TorchScript archives, written without Python: what `torch.jit.save` writes for
//! a module of one method, as far as libtorch reads it.

use std::path::{Path, PathBuf};
use tch::CModule;

/// A TorchScript module `M` with parameters of dtype f64.
pub struct Script {
    /// The lines of `forward` from its arguments on: `(x: Tensor) -> Tensor:`, ...
    pub forward: String,
    pub parameters: Vec<(&'static str, Vec<f64>)>,
}

impl Script {
    /// A module without parameters whose `forward` returns one expression.
    pub fn returning(signature: &str, result: &str) -> Script {
        let (arguments, returns) = signature.split_once("->").expect("a signature has an arrow");
        let forward = format!("({arguments}) -> {returns}:\n    return {result}\n");
        Script { forward, parameters: Vec::new() }
    }

    pub fn module(&self) -> CModule {
        CModule::load_data(&mut &*self.bytes()).expect("libtorch reads the archive")
    }

    /// Saves it in `folder` under a name that no other test uses.
    pub fn save(&self, folder: &str, name: &str) -> PathBuf {
        let path = Path::new(folder).join(name);
        std::fs::write(&path, self.bytes()).expect("cargo made the folder");
        path
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut files = vec![
            ("m/data.pkl".to_owned(), self.pickled()),
            ("m/code/__torch__.py".to_owned(), self.code().into_bytes()),
            ("m/constants.pkl".to_owned(), b"\x80\x02).".to_vec()), // an empty tuple
            ("m/version".to_owned(), b"3\n".to_vec()),
        ];
        for (i, (_, values)) in self.parameters.iter().enumerate() {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            files.push((format!("m/data/{i}"), bytes));
        }
        zip(&files)
    }

    fn code(&self) -> String {
        let names: String = self.parameters.iter().map(|(name, _)| format!("{name:?}, ")).collect();
        let types: String =
            self.parameters.iter().map(|(name, _)| format!("  {name} : Tensor\n")).collect();
        let arguments = self.forward.trim_start_matches('(');
        format!(
            "class M(Module):\n  __parameters__ = [{names}]\n  __buffers__ = []\n{types}  \
             training : bool\n  def forward(self: __torch__.M, {arguments}"
        )
    }

    /// The module's object, as opcodes of Python's pickle, protocol 2.
    fn pickled(&self) -> Vec<u8> {
        let mut out = b"\x80\x02c__torch__\nM\n)\x81}(".to_vec(); // M.__new__(M), and a dict
        for (i, (name, values)) in self.parameters.iter().enumerate() {
            text(&mut out, name);
            parameter(&mut out, i, values.len());
        }
        text(&mut out, "training");
        out.extend(b"\x88ub."); // True, put into the dict, set as the object's state
        out
    }
}

/// `_rebuild_tensor_v2(storage, 0, (n,), (1,), requires_grad=True, OrderedDict())`.
fn parameter(out: &mut Vec<u8>, index: usize, n: usize) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(b"ctorch\nDoubleStorage\n");
    text(out, &index.to_string());
    text(out, "cpu");
    let n = u8::try_from(n).expect("few numbers");
    out.extend([b'K', n, b't', b'Q', b'K', 0, b'K', n, 0x85, b'K', 1, 0x85, 0x88]);
    out.extend(b"ccollections\nOrderedDict\n)RtR");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

/// A zip archive of files that are stored as they are.
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let offset = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // version 2.0, stored, no time
        about.extend(crc32(data).to_le_bytes());
        about.extend([size, size].concat());
        about.extend((name.len() as u32).to_le_bytes()); // and no extra field

        out.extend(b"PK\x03\x04");
        out.extend(&about);
        out.extend(name.bytes().chain(data.iter().copied()));

        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&about);
        directory.extend([0; 10]); // no comment, first disk, no attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let n = (files.len() as u16).to_le_bytes();
    let (start, size) = (out.len() as u32, directory.len() as u32);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([n, n].concat());
    out.extend([size, start].map(u32::to_le_bytes).concat());
    out.extend([0, 0]); // no comment
    out
}

/// The check sum of zip and PNG.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        let step = |c: u32, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg());
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}
