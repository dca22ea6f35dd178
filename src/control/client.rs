//! The blocking client that commands use.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, REPLY_BYTES_MAX, Request, decode_reply, encode_request};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;

/// How long an answer may take. Stopping and destroying wait for what is under way.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
const SEND_WAIT: Duration = Duration::from_secs(10);

/// A connection to a daemon.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl ControlClient {
    /// Connects to the daemon that listens at `path`; `None` when no daemon does.
    ///
    /// # Errors
    /// There is a daemon, or something else, that does not let us in.
    pub fn connect(path: &Path) -> Result<Option<Self>> {
        let failed = |e: io::Error| Error::io(format!("connecting to the daemon at {}", path.display()), e);
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            // nobody listens: a socket left by a daemon that was killed
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(failed)?;
        stream.set_write_timeout(Some(SEND_WAIT)).map_err(failed)?;
        Ok(Some(Self { stream: BufReader::new(stream), path: path.to_owned() }))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The daemon's own, with its kind; [`ErrorKind::Shutdown`] when it ended before it answered, [`ErrorKind::Io`] when
    /// it does not answer.
    pub fn ask(&mut self, request: &Request) -> Result<Answer> {
        let shown = self.path.display();
        let line = encode_request(request)?;
        let failed = |e: io::Error| {
            if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
                return Error::new(ErrorKind::Shutdown, format!("the daemon at {shown} has ended"));
            }
            if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                let within = ANSWER_WAIT.as_secs();
                return Error::new(ErrorKind::Io, format!("the daemon at {shown} gave no answer within {within} s"));
            }
            Error::io(format!("asking the daemon at {shown}"), e)
        };
        self.stream.get_mut().write_all(&line).map_err(failed)?;
        let mut reply = Vec::new();
        let bounded = &mut (&mut self.stream).take(REPLY_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut reply).map_err(failed)?;
        let Some(line) = reply.strip_suffix(b"\n") else {
            fail!(Shutdown, "the daemon at {shown} ended before it answered");
        };
        decode_reply(line)
    }

    /// Waits until the daemon closes the connection, which it does when it exits.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: it did not within two minutes.
    pub fn wait_for_end(mut self) -> Result<()> {
        let mut rest = [0; 512];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::io(format!("waiting for the daemon at {} to end", self.path.display()), e));
                }
            }
        }
    }
}
