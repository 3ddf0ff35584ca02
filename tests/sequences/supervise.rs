//! The sequences in a process of their own, so that one that crashes or hangs is
//! found, made short and printed like any other.

use super::call::Program;
use super::{CALLS, COUNT, PROCESS, SEED};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How a line of the other process begins that names the sequence it runs next.
const NEXT: &str = "@sequence ";
/// Longer than any sequence takes, also under valgrind.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than the start and one sequence take.
const IMPATIENCE: Duration = Duration::from_secs(20);

pub fn say_next(seed: u64) {
    println!("{NEXT}{seed}");
}

/// What became of a process.
enum End {
    Good,
    Failed,
    /// Crashed or hung in the sequence of this seed.
    Lost(u64, String),
}

/// Runs `count` sequences in another process, and returns whether all is well.
pub fn run(first: u64, count: u64, program: impl Fn(u64) -> Program) -> bool {
    match watch(&mut command(first, count), PATIENCE, true) {
        End::Good => true,
        End::Failed => false,
        End::Lost(seed, how) => {
            let lost = |program: &Program| {
                let calls = program.calls.iter().map(|(i, _)| i.to_string());
                let calls = calls.collect::<Vec<_>>().join(",");
                let mut command = command(seed, 1);
                matches!(watch(command.env(CALLS, calls), IMPATIENCE, false), End::Lost(..))
            };
            let short = program(seed).shortened(lost);
            println!("{how}\n{short}{SEED}={seed} {COUNT}=1 repeats it\n");
            false
        }
    }
}

fn command(first: u64, count: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program's path"));
    command.args(["--exact", "sequences", "--nocapture"]);
    command.env(PROCESS, "watched").env(SEED, first.to_string()).env(COUNT, count.to_string());
    command.stdout(Stdio::piped());
    command
}

fn watch(command: &mut Command, patience: Duration, loud: bool) -> End {
    if !loud {
        command.stderr(Stdio::null());
    }
    let mut child = command.spawn().expect("this program starts again");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (send, receive) = channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut seed = 0;
    let mut hung = false;
    loop {
        match receive.recv_timeout(patience) {
            Ok(line) => match line.strip_prefix(NEXT) {
                Some(next) => seed = next.parse().expect("a seed"),
                None if loud => println!("{line}"),
                None => {}
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                hung = true;
                child.kill().expect("it still runs");
            }
        }
    }
    reader.join().expect("the reader does not panic");
    end(&mut child, seed, hung)
}

fn end(child: &mut Child, seed: u64, hung: bool) -> End {
    let status = child.wait().expect("it has ended");
    match status.code() {
        _ if hung => End::Lost(seed, "hangs".to_owned()),
        Some(0) => End::Good,
        // libtest's, after a panic.
        Some(101) => End::Failed,
        _ => End::Lost(seed, format!("the process ended with {status}")),
    }
}
