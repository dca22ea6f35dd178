//! Programs with a time limit, their output kept.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write as _},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Failure, Result, wait};

/// How much of a failed program's output a message repeats.
const TAIL_BYTES: usize = 4000;

/// A program to be run.
pub struct Cmd {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program that ended has left.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// A shell script, run with `-euo pipefail`.
#[must_use]
pub fn sh(script: impl AsRef<OsStr>) -> Cmd {
    Cmd::new("bash").args(["-euo", "pipefail", "-c"]).arg(script)
}

impl Cmd {
    /// Runs `program`, found in PATH; limit: two minutes.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let argv = vec![program.as_ref().to_owned()];
        Self { argv, env: Vec::new(), input: Vec::new(), limit: Duration::from_secs(120) }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads from standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// It and its children are killed after this long.
    #[must_use]
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs it to its end, however it ends.
    ///
    /// # Errors
    /// When it cannot be started or is not done in time.
    pub fn run(&self) -> Result<Output> {
        let mut child = self.spawn()?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            let input = self.input.clone();
            // A program that ends without reading all of it is no failure of ours.
            thread::spawn(move || stdin.write_all(&input).ok());
        }
        let ended = wait::until(&self.to_string(), self.limit, || {
            child.try_wait().map_err(Failure::io(format_args!("waiting for {self}")))
        });
        if ended.is_err() {
            kill_group(&child);
            child.wait().map_err(Failure::io(format_args!("reaping {self}")))?;
        }
        let text = |pipe: Pipe| String::from_utf8_lossy(&pipe.join().unwrap_or_default()).into_owned();
        let (out, err) = (text(out), text(err));
        match ended {
            Ok(status) => Ok(Output { status, out, err }),
            Err(late) => Err(late.within(format_args!("{}{}", tail("stdout", &out), tail("stderr", &err)))),
        }
    }

    /// Runs it; its standard output.
    ///
    /// # Errors
    /// Also when its exit status is not 0.
    pub fn ok(&self) -> Result<String> {
        let output = self.run()?;
        if output.status.success() {
            return Ok(output.out);
        }
        Err(output.failure(&self.to_string()))
    }

    /// Runs it in the background; it ends with [`Background::finish`] or is killed when dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Background> {
        let mut child = self.spawn()?;
        child.stdin.take();
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Ok(Background { name: self.to_string(), child, pipes: Some((out, err)) })
    }

    /// Runs it in the background: `says` is what it reads from standard input, as fast as it takes it, and `hears` is told
    /// every line of its standard output at once.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn converse(
        &self,
        mut says: impl Iterator<Item = String> + Send + 'static,
        mut hears: impl FnMut(&str) + Send + 'static,
    ) -> Result<Background> {
        let mut child = self.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Until it ends: then nobody reads any more.
            thread::spawn(move || says.try_for_each(|text| stdin.write_all(text.as_bytes())).ok());
        }
        let out = child.stdout.take();
        let out = thread::spawn(move || {
            let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(|line| line.ok());
            lines.for_each(|line| hears(&line));
            Vec::new()
        });
        let err = collect(child.stderr.take());
        Ok(Background { name: self.to_string(), child, pipes: Some((out, err)) })
    }

    fn spawn(&self) -> Result<Child> {
        Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Failure::io(format_args!("starting {self}")))
    }
}

impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, arg) in self.argv.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "`" } else { " " }, arg.to_string_lossy())?;
        }
        f.write_char('`')
    }
}

impl Output {
    /// What to say when this end was not the hoped-for one.
    #[must_use]
    pub fn failure(&self, command: &str) -> Failure {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        Failure::new(format!("{command}: {how}{}{}", tail("stdout", &self.out), tail("stderr", &self.err)))
    }
}

/// Reads one of its outputs to the end.
type Pipe = thread::JoinHandle<Vec<u8>>;

/// A program that runs beside the test.
pub struct Background {
    name: String,
    child: Child,
    pipes: Option<(Pipe, Pipe)>,
}

impl Background {
    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().map_err(Failure::io(&self.name))?.is_none())
    }

    /// Sends it and its children a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            kill_process_group(group, signal).ok();
        }
    }

    /// Kills it and its children; all that it had printed has been heard then.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(self) -> Result<Output> {
        self.signal(Signal::KILL);
        self.finish(Duration::from_secs(30))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        let child = &mut self.child;
        let status = wait::until(&format!("the end of {}", self.name), limit, || {
            child.try_wait().map_err(Failure::io(&self.name))
        })?;
        let (out, err) = self.pipes.take().map_or_else(Default::default, |(out, err)| {
            (out.join().unwrap_or_default(), err.join().unwrap_or_default())
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output { status, out: text(&out), err: text(&err) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            self.child.wait().ok();
        }
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).ok();
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Pipe {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error of the pipe is still worth showing.
            pipe.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

fn tail(name: &str, text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() {
        return String::new();
    }
    let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES));
    format!("\n--- {name}\n{}\n", &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept_apart() {
        let output = sh("cat; echo err >&2; exit 3").input("given").run().unwrap();
        assert_eq!((output.status.code(), output.out.as_str(), output.err.as_str()), (Some(3), "given", "err\n"));
        let said = sh("echo why >&2; false").ok().unwrap_err().to_string();
        assert!(said.contains("exit status 1") && said.contains("why"), "{said}");
    }

    #[test]
    fn what_is_said_in_a_conversation_is_heard_line_by_line() {
        let (sender, heard) = std::sync::mpsc::channel();
        let numbers = (0_u64..).map(|n| format!("{n}\n"));
        let talk = sh("while read -r n; do echo \"got $n\"; done").converse(numbers, move |line| {
            sender.send(line.to_owned()).ok();
        });
        let talk = talk.unwrap();
        let lines: Vec<String> = heard.iter().take(3).collect();
        assert_eq!(lines, ["got 0", "got 1", "got 2"]);
        talk.end().unwrap();
        // all that was said came before the end
        let rest = heard.try_iter().collect::<Vec<_>>();
        assert!(rest.iter().enumerate().all(|(index, line)| *line == format!("got {}", index + 3)), "{rest:?}");
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let start = wait::now();
        let said = sh("echo begun; sleep 60 | cat").limit(1).run().map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("begun") && said.contains("in vain"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
