//! A store's server in a process of its own, to be killed, stopped and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// A server and its data. Dropping it ends both.
pub(crate) struct Server {
    kind: &'static str,
    settings: &'static [(&'static str, &'static str)],
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Server {
    /// A new one, without data, of a kind that `tests/with-servers --serve` knows. It does not run yet.
    pub(crate) fn new(kind: &'static str, settings: &'static [(&'static str, &'static str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("axum-refresh-server.").tempdir().unwrap();
        // The database runs as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { kind, settings, folder, port, process: None }
    }

    /// Where its data is, and what it was made with.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Runs it, on the data that it has and the port that it had, and waits until it answers.
    pub(crate) async fn run(&mut self, answers: impl AsyncFn(u16) -> bool) {
        let started = Instant::now();
        loop {
            match self.exited() {
                None if self.process.is_some() => {}
                // Postgres does not start while its memory of the last time is still about.
                _ => self.spawn(),
            }
            if answers(self.port).await {
                return;
            }
            let is_missing = self.exited().is_some_and(|status| status.code() == Some(3));
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(!is_missing, "{}", log().trim());
            assert!(started.elapsed() < Duration::from_secs(60), "{} does not answer: {}", self.kind, log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().unwrap())
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-servers"))
            .args(["--serve", self.kind])
            .arg(self.data())
            .arg(self.port.to_string())
            .envs(self.settings.iter().copied())
            // Held for as long as this process lives: the server ends with it.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("tests/with-servers starts");
        self.process = Some(process);
    }

    /// Kills it, with everything that it started, without a word of warning.
    pub(crate) fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        signal("-KILL", process.id());
        process.wait().ok();
    }

    /// Stops it where it stands. Connections stay, and nobody answers.
    pub(crate) fn pause(&self) {
        signal("-STOP", self.process.as_ref().unwrap().id());
    }

    pub(crate) fn resume(&self) {
        signal("-CONT", self.process.as_ref().unwrap().id());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// To a process and all that came of it: Postgres has one for every connection.
fn signal(name: &str, process: u32) {
    let mut tree = vec![process];
    let mut next = 0;
    let children = children();
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(children.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    let tree: Vec<_> = tree.iter().map(u32::to_string).collect();
    // One that has just ended is no error.
    Command::new("kill").arg(name).args(tree).stderr(Stdio::null()).status().unwrap();
}

/// Every process, and whose child it is.
fn children() -> Vec<(u32, u32)> {
    let read = |folder: &Path| {
        let process = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // "pid (name) state parent ...", and the name may have anything in it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((process, parent))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| read(&entry.ok()?.path())).collect()
}
