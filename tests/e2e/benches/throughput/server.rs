//! The server as a process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::load::{self, Load, Requests};

pub(crate) struct Server {
    child: Child,
    address: String,
    /// Where it writes the tokens of its sessions.
    tokens: tempfile::TempDir,
}

impl Server {
    /// On a core of its own.
    pub(crate) fn start(sessions: usize, store: &str) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(std::env::current_exe().unwrap());
        Self::spawn(command, sessions, store)
    }

    /// Under callgrind, which writes a file to `folder` at every [`mark`](Self::mark). None if it is not installed.
    pub(crate) fn start_counting(sessions: usize, folder: &Path) -> Option<Self> {
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().ok()?;
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--quiet", "--dump-before=*apps::mark*"])
            .arg(format!("--callgrind-out-file={}", folder.join("callgrind").display()))
            .arg(std::env::current_exe().unwrap());
        Some(Self::spawn(command, sessions, "memory"))
    }

    fn spawn(mut command: Command, sessions: usize, store: &str) -> Self {
        let tokens = tempfile::tempdir().unwrap();
        let mut child = command
            .args(["--serve", &sessions.to_string()])
            .envs([("TOKENS", tokens.path().as_os_str()), ("STORE", store.as_ref())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned(), tokens }
    }

    pub(crate) fn load(&self, requests: &Requests, count: usize) -> Load {
        let before = self.processor_time();
        let per_second = load::run(&self.address, self.tokens.path(), requests, count);
        let used = self.processor_time() - before;
        Load { per_second, processor_us: used / count as f64 }
    }

    pub(crate) fn mark(&self) {
        load::get(&self.address, "/mark");
    }

    /// The processor time of all threads so far, in microseconds.
    fn processor_time(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split_whitespace().next().unwrap().parse::<f64>().unwrap()
        });
        nanoseconds.sum::<f64>() / 1_000.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
