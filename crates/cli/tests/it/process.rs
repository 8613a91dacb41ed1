//! `larder server` as a process: its log, signals and exit statuses.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::binary::TestDir;

/// On an address that no other test uses: a port that was free there just now stays free.
const HOST: &str = "127.79.0.1";

/// A server process, killed when dropped.
struct Process {
    child: Child,
    port: u16,
    http_port: u16,
    segment: PathBuf,
    dir: TestDir,
}

fn free_port() -> u16 {
    TcpListener::bind((HOST, 0)).expect("a free port").local_addr().expect("its address").port()
}

impl Process {
    /// Starts a server with these flags. It may still be starting.
    fn start(flags: &[&str], stderr: impl Into<Stdio>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("larder_process_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (port, http_port) = (free_port(), free_port());
        let ports = [format!("--port={port}"), format!("--http-port={http_port}")];
        let hosts = [format!("--host={HOST}"), format!("--http-host={HOST}")];
        let shm = format!("--shm-name={name}");
        let fixed = ["server", "--l1-size-gb=0.03125", &ports[0], &ports[1], &hosts[0], &hosts[1], &shm];
        let dir = TestDir::new();
        let mut command = dir.command(&[&fixed[..], flags].concat());
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().expect("the binary runs");
        let segment = PathBuf::from(format!("/dev/shm/lmcache_l1_pool_{name}"));
        Self { child, port, http_port, segment, dir }
    }

    /// Starts a server, and waits until it is ready. Its log is read to the end by a thread.
    fn ready(flags: &[&str]) -> Self {
        let mut process = Self::start(flags, Stdio::piped());
        let mut log = BufReader::new(process.child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("ready: ") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("text"), 0, "it ended before it was ready");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        process
    }

    /// The body of an HTTP response. Waits for the server to listen.
    fn get(&mut self, path: &str) -> String {
        let mut stream = loop {
            match TcpStream::connect((HOST, self.http_port)) {
                Ok(stream) => break stream,
                Err(_) => assert_eq!(self.child.try_wait().expect("a child"), None, "the server has ended"),
            }
            // Starting needs the processor more.
            std::thread::sleep(Duration::from_millis(5));
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        text
    }

    /// Log lines lost, by its metrics.
    fn lost_lines(&mut self) -> f64 {
        let metrics = self.get("/metrics");
        let lost = metrics.lines().find(|line| line.starts_with("lmcache_mp_log_lost_lines_total "));
        let (_, lost) = lost.and_then(|line| line.rsplit_once(' ')).expect("the metric");
        lost.parse().expect("a number")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is there");
    }

    /// The exit status, and the log if nothing else reads it.
    fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut log).expect("text");
        }
        (self.child.wait().expect("a child"), log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.segment);
    }
}

#[test]
fn log_that_cannot_be_written_costs_lines_and_not_the_server() {
    let full_disk = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device"));
    // Its reader is dropped.
    let lost_pipe = || Stdio::from(std::io::pipe().expect("a pipe").1);
    let sinks: [(&str, &dyn Fn() -> Stdio); 2] = [("full disk", &full_disk), ("lost pipe", &lost_pipe)];
    for (what, sink) in sinks {
        for format in ["text", "json"] {
            let mut process = Process::start(&["--log-format", format], sink());
            // The first line comes when it listens already.
            while process.lost_lines() < 1.0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            process.signal(Signal::TERM);
            assert_eq!(process.end().0.code(), Some(0), "{what}, {format}");
        }
    }
}

#[test]
fn log_whose_reader_has_stopped_does_not_stop_the_server() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let flags = rustix::fs::fcntl_getfl(&writer).expect("flags");
    rustix::fs::fcntl_setfl(writer.as_fd(), flags | OFlags::NONBLOCK).expect("it can be set");
    while (&writer).write(&[b'\n'; 1024]).is_ok() {}
    rustix::fs::fcntl_setfl(writer.as_fd(), flags).expect("it can be set");
    let mut process = Process::start(&["--log-level", "debug"], writer);
    assert!(process.get("/livez").starts_with("HTTP/1.1 200"));
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
    drop(reader);
}

#[test]
fn every_usual_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::XCPU] {
        let process = Process::ready(&[]);
        let segment = process.segment.clone();
        assert!(segment.exists());
        process.signal(signal);
        let (status, _) = process.end();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal:?}");
        assert!(!segment.exists(), "{signal:?}: nothing is left behind");
    }
}

#[test]
fn other_signals_have_no_effect() {
    let mut process = Process::ready(&[]);
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE, Signal::XFSZ] {
        process.signal(signal);
        assert!(process.get("/livez").starts_with("HTTP/1.1 200"), "{signal:?}");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn exit_status_says_whether_to_try_again() {
    let first = Process::ready(&[]);
    let port = format!("--port={}", first.port);
    let http_port = format!("--http-port={}", first.http_port);
    let shm = format!("--shm-name={}", first.segment.display()).replace("/dev/shm/lmcache_l1_pool_", "");
    let file = first.dir.path("file");
    std::fs::write(&file, "").expect("a file");
    let below_a_file = format!("--state-dir={}/state", file.display());
    let l2 = format!(r#"--l2-adapter={{"type":"fs","base_path":"{}/l2"}}"#, file.display());
    let name = file.display().to_string();
    for (flag, status, texts) in [
        (&*port, 75, [HOST, "in use"]),
        (&*http_port, 75, [HOST, "in use"]),
        (&*shm, 75, ["/dev/shm/", "held by a running server"]),
        (&*below_a_file, 3, [&*name, "Not a directory"]),
        (&*l2, 3, ["--l2-adapter #1", "os error"]),
        ("--port=0", 2, ["--port 0", "must be"]),
    ] {
        let (ended, log) = Process::start(&[flag], Stdio::piped()).end();
        let last = log.lines().last().unwrap_or_default().to_owned();
        assert_eq!(ended.code(), Some(status), "{flag}: {log}");
        assert!(
            texts.iter().all(|text| last.to_lowercase().contains(&text.to_lowercase())),
            "{flag}: {last}"
        );
    }
}

#[test]
fn recording_to_a_full_disk_does_not_keep_the_server_from_starting() {
    let mut process = Process::ready(&["--record=/dev/full"]);
    assert!(process.get("/livez").starts_with("HTTP/1.1 200"));
    let (ended, log) = Process::start(&["--record=/no/such/directory/file"], Stdio::piped()).end();
    assert_eq!(ended.code(), Some(3), "{log}");
}
