//! A connected client: a stream, a protocol's state and what was received of the next reply.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::client::{Client, Decoded, Reply};
use crate::transport::{ReadBuffer, Stream};

/// How long a connect, and then the answer to the first request, may take: every broker answers
/// that one at once, so a peer that is none is told from a slow one soon.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to an administrative request may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// One connection with its protocol's handshake done.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) client: Client,
    pub(crate) buffer: ReadBuffer,
    /// Whether the peer has shown that it speaks the protocol.
    speaks: bool,
}

impl Connection {
    /// Connects and shakes hands; the error names the address.
    pub(crate) async fn open(address: SocketAddr, client: Client) -> anyhow::Result<Self> {
        let stream = Stream::connect(address, HANDSHAKE_TIMEOUT)
            .with_context(|| format!("cannot reach {address}"))?;
        let mut connection = Self {
            stream,
            client,
            buffer: ReadBuffer::default(),
            speaks: false,
        };
        let mut out = Vec::new();
        connection.client.handshake(&mut out);
        let ready = connection.exchange(out, |reply| match reply {
            Reply::Ready => Some(()),
            _ => None,
        });
        let ready = ready.await;
        ready.with_context(|| format!("no handshake with {address}"))?;
        connection.speaks = true;
        Ok(connection)
    }

    /// Sends what `out` holds and waits for the reply, of which `take` keeps what it knows.
    pub(crate) async fn exchange<T>(
        &mut self,
        out: Vec<u8>,
        take: impl FnOnce(Reply<'_>) -> Option<T>,
    ) -> anyhow::Result<T> {
        let protocol = self.client.protocol();
        let speaks = self.speaks;
        let limit = if speaks {
            ANSWER_TIMEOUT
        } else {
            HANDSHAKE_TIMEOUT
        };
        let taken = tokio::time::timeout(limit, async {
            self.stream
                .write(out)
                .await
                .map_err(|e| cut_off(e, speaks, protocol))?;
            loop {
                if let Decoded::Complete { value, bytes } =
                    self.client.decode(self.buffer.bytes())?
                {
                    let taken = take(value);
                    self.buffer.take(bytes);
                    return taken.context("the broker answered something else than was asked");
                }
                let received = self.stream.read(&mut self.buffer).await;
                if received.map_err(|e| cut_off(e, speaks, protocol))? == 0 {
                    return Err(closed(speaks, protocol));
                }
            }
        });
        match taken.await {
            Ok(taken) => taken,
            Err(_) if speaks => bail!(
                "the broker answered before, and has not answered this request within {limit:?}: \
                 it is overloaded, or it hangs"
            ),
            Err(_) => bail!(
                "the peer took the connection, was asked which requests of {protocol}'s it serves, \
                 and said nothing for {limit:?}: check that {protocol} is spoken at this port, \
                 without TLS, and that the broker is not stopped or stuck"
            ),
        }
    }
}

/// What a connection's end means, by whether the peer has shown that it speaks the protocol.
fn closed(speaks: bool, protocol: &str) -> anyhow::Error {
    if speaks {
        anyhow!(
            "the broker closed the connection after a good handshake: it probably wants \
             authentication (SASL), which this generator does not speak; give it a listener without"
        )
    } else {
        anyhow!("the peer closed the connection instead of answering: not {protocol}?")
    }
}

/// The same where the kernel says it as an error; any other error as it is.
fn cut_off(error: io::Error, speaks: bool, protocol: &str) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => closed(speaks, protocol),
        _ => error.into(),
    }
}
