//! One client from its greeting to its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::exports::Exports;
use super::handshake::{Handshake, Progress, Session};
use super::inbox::{Inbox, Peer};
use super::outbox::Outbox;
use super::receiver::Receiver;
use super::sender::Sender;
use crate::buf::AlignedBuf;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// How long a handshake may take.
const HANDSHAKE_NS: u64 = 30_000_000_000;

/// Serves a client until it leaves and all its requests have been answered.
pub(super) async fn serve(env: Env, socket: Arc<OwnedFd>, exports: Exports) {
    let peer = Peer::new(env.reactor.clone(), socket);
    let mut inbox = Inbox::new();
    let session = match negotiate_in_time(&env, &peer, &mut inbox, &exports).await {
        Ok(Some(session)) => session,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "no NBD session came about");
            return;
        }
    };
    let export = session.export.client.name.clone();
    if !exports.connect(&session.export, peer.socket()) {
        return;
    }
    tracing::debug!(%export, structured = session.structured, "NBD client connected");
    let outbox = Arc::new(Outbox::default());
    let sender = env.spawner.spawn(Sender::new(peer.clone(), outbox.clone(), session.structured).run());
    let end = Receiver::new(&peer, inbox, &session, &outbox).run().await;
    match end {
        Err(error) if error.kind() == ErrorKind::Config => tracing::warn!(%export, %error, "NBD client dropped"),
        Err(error) => tracing::debug!(%export, %error, "NBD client gone"),
        Ok(()) => tracing::debug!(%export, "NBD client says goodbye"),
    }
    outbox.close();
    sender.await;
}

async fn negotiate_in_time(env: &Env, peer: &Peer, inbox: &mut Inbox, exports: &Exports) -> Result<Option<Session>> {
    let (timer_env, timer_peer) = (env.clone(), peer.clone());
    // dropped, and with it cancelled, when the handshake is over
    let _timer = env.spawner.spawn(async move {
        timer_env.sleep_ns(HANDSHAKE_NS).await;
        timer_peer.hang_up();
    });
    negotiate(peer, inbox, exports).await
}

/// The handshake; nothing if the client only wanted to know something.
async fn negotiate(peer: &Peer, inbox: &mut Inbox, exports: &Exports) -> Result<Option<Session>> {
    let mut handshake = Handshake::default();
    send(peer, &Handshake::greeting()).await?;
    loop {
        let mut output = Vec::new();
        let progress = handshake
            .advance(inbox.bytes(), exports, &mut output)
            .map_err(|violation| Error::new(ErrorKind::Config, violation.0))?;
        match progress {
            Progress::Incomplete => inbox.receive(peer).await?,
            Progress::Used(bytes) => {
                inbox.consume(bytes);
                send(peer, &output).await?;
            }
            Progress::Transmission(bytes, session) => {
                inbox.consume(bytes);
                send(peer, &output).await?;
                return Ok(Some(session));
            }
            Progress::Leave => {
                send(peer, &output).await?;
                return Ok(None);
            }
        }
    }
}

async fn send(peer: &Peer, bytes: &[u8]) -> Result<()> {
    peer.send(AlignedBuf::copied(bytes), bytes.len()).await.1
}
