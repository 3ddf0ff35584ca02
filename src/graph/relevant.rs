//! [`relevant`]: the nodes that a pass to given targets must run.

use super::node::{Edge, Node};
use super::var::Var;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Number of bits of a block: a cache line.
const BLOCK: u64 = 512;
type Block = [u64; (BLOCK / 64) as usize];

/// A set of sequence numbers. Those of one graph lie close together (Note [Sequence numbers] in
/// `node.rs`), so they are bits of blocks, and the block of the last number that was asked for
/// is at hand.
#[derive(Default)]
pub(super) struct Seqs {
    blocks: Vec<Block>,
    /// The position of the block of the numbers from `BLOCK` times the key on.
    positions: HashMap<u64, usize, BuildHasherDefault<SpreadOut>>,
    last: Cell<Option<(u64, usize)>>,
}

impl Seqs {
    #[inline]
    pub fn contains(&self, seq: u64) -> bool {
        let position = self.position(seq / BLOCK);
        position.is_some_and(|position| self.blocks[position][word(seq)] & bit(seq) != 0)
    }

    /// Adds a number; returns whether it was not there.
    #[inline]
    fn insert(&mut self, seq: u64) -> bool {
        let key = seq / BLOCK;
        let position = self.position(key).unwrap_or_else(|| self.add_block(key));
        let word = &mut self.blocks[position][word(seq)];
        let was = *word;
        *word |= bit(seq);
        was != *word
    }

    #[inline]
    fn position(&self, key: u64) -> Option<usize> {
        match self.last.get() {
            Some((last, position)) if last == key => Some(position),
            _ => {
                let position = *self.positions.get(&key)?;
                self.last.set(Some((key, position)));
                Some(position)
            }
        }
    }

    #[cold]
    fn add_block(&mut self, key: u64) -> usize {
        let position = self.blocks.len();
        self.blocks.push(Block::default());
        self.positions.insert(key, position);
        self.last.set(Some((key, position)));
        position
    }
}

fn word(seq: u64) -> usize {
    (seq % BLOCK / 64) as usize
}

fn bit(seq: u64) -> u64 {
    1 << (seq % 64)
}

/// Keys are different numbers, so a multiplication spreads them well enough.
#[derive(Default)]
struct SpreadOut(u64);

impl Hasher for SpreadOut {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }
}

/// Returns the targets and every node behind `outputs` from which one can be reached.
pub(super) fn relevant(outputs: &[&Var], targets: &[&Var]) -> Seqs {
    let mut relevant = Seqs::default();
    let Some(oldest) = targets.iter().map(|t| t.node().seq).min() else { return relevant };
    for target in targets {
        relevant.insert(target.node().seq);
    }
    let mut nodes = reachable(outputs, oldest);
    nodes.sort_unstable_by_key(|node| node.seq);
    for node in nodes {
        if node.edges().iter().flatten().any(|edge| relevant.contains(edge.node.seq)) {
            relevant.insert(node.seq);
        }
    }
    relevant
}

/// Returns every node behind `outputs` that is younger than `oldest`.
fn reachable<'g>(outputs: &[&'g Var], oldest: u64) -> Vec<&'g Node> {
    let mut seen = Seqs::default();
    let mut nodes: Vec<&Node> = Vec::new();
    let mut next = 0;
    let mut reach = |nodes: &mut Vec<&'g Node>, edge: &'g Edge| {
        if edge.node.seq > oldest && seen.insert(edge.node.seq) {
            nodes.push(&edge.node);
        }
    };
    outputs.iter().for_each(|output| reach(&mut nodes, output.edge()));
    while let Some(&node) = nodes.get(next) {
        next += 1;
        node.edges().iter().flatten().for_each(|edge| reach(&mut nodes, edge));
    }
    nodes
}

/// Against the standard library's set, of numbers that are close, far apart, and in the blocks
/// of others.
#[test]
fn a_set_of_numbers_is_one() {
    let mut numbers = Vec::new();
    for i in 0..3000u64 {
        let spread = i.wrapping_mul(0x2545_f491_4f6c_dd1d);
        numbers.extend([i * 3, spread, spread % 5000, u64::MAX - i * 7, 1 << (i % 64)]);
    }
    let mut seqs = Seqs::default();
    let mut expected = std::collections::HashSet::new();
    for &seq in &numbers {
        assert_eq!(seqs.insert(seq), expected.insert(seq), "{seq}");
        for near in [seq, seq.wrapping_sub(1), seq.wrapping_add(512), seq ^ 64] {
            assert_eq!(seqs.contains(near), expected.contains(&near), "{near} beside {seq}");
        }
    }
}
