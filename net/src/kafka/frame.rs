//! Cuts the byte stream into requests.
//!
//! | bytes | type            | field                                            |
//! |------:|-----------------|--------------------------------------------------|
//! |     4 | i32             | length of what follows                           |
//! |     2 | i16             | API key                                          |
//! |     2 | i16             | API version                                      |
//! |     4 | i32             | correlation id                                   |
//! |   2 + | nullable string | client id, never compact                         |
//! |   1 + | tagged fields   | only where the API's version is flexible         |
//! |       |                 | the body                                         |
//!
//! Source: Kafka protocol guide, "Request Header v1" and "v2". Length, key and version are judged
//! as soon as they are there: what will be refused is never waited for.

use super::config::KafkaConfig;
use super::versions::Api;
use super::wire::{DecodeError, Reader};
use crate::session::ProtocolViolation;

/// Bytes of the length field.
const LENGTH_BYTES: usize = 4;
/// Length, key, version and correlation id: enough to refuse by.
const PREFIX_BYTES: usize = LENGTH_BYTES + REQUEST_BYTES_MIN;
/// Key, version and correlation id.
const REQUEST_BYTES_MIN: usize = 8;

/// A request with its header read.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// What it asks for.
    pub(crate) api: Api,
    /// In which version.
    pub(crate) version: i16,
    /// Echoed in the reply.
    pub(crate) correlation: i32,
    /// What the client calls itself; empty when it does not say.
    pub(crate) client_id: &'a str,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl Request<'_> {
    /// Whether its version has varint lengths and tagged fields.
    pub(crate) fn is_flexible(&self) -> bool {
        self.api.is_flexible(self.version)
    }

    /// The violation of a body that cannot be read.
    pub(crate) fn malformed(&self, error: impl std::fmt::Display) -> ProtocolViolation {
        let (api, version) = (self.api, self.version);
        ProtocolViolation {
            reason: format!("malformed {api:?} request, version {version}: {error}"),
        }
    }
}

/// What stands at the front of the input.
#[derive(Clone, Debug)]
pub(crate) enum Front<'a> {
    /// Not a whole request yet.
    Incomplete {
        /// Bytes that it needs in all; 0 while its length is not known.
        need_bytes: usize,
    },
    /// A whole request, and how many bytes it took.
    Whole { request: Request<'a>, bytes: usize },
    /// A version that we do not know of the one API where that must be answered.
    UnknownApiVersions { correlation: i32, bytes: usize },
}

/// Looks at the front of `input`. `is_first`: nothing came before it on this connection.
///
/// # Errors
/// It is not a request that we serve, or it is too large: the connection closes.
pub(crate) fn front<'a>(
    input: &'a [u8],
    is_first: bool,
    config: &KafkaConfig,
) -> Result<Front<'a>, ProtocolViolation> {
    let Some(length) = input.first_chunk::<LENGTH_BYTES>() else {
        return Ok(Front::Incomplete { need_bytes: 0 });
    };
    let length = frame_length(*length, config)?;
    let need_bytes = LENGTH_BYTES + length;
    let Some(prefix) = input.first_chunk::<PREFIX_BYTES>() else {
        // Room for the prefix is enough: who declares more is judged by it first.
        return Ok(Front::Incomplete {
            need_bytes: PREFIX_BYTES,
        });
    };
    let key = i16::from_be_bytes([prefix[4], prefix[5]]);
    let version = i16::from_be_bytes([prefix[6], prefix[7]]);
    let correlation = i32::from_be_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
    let api = Api::from_key(key).ok_or_else(|| {
        violation(format!(
            "API key {key} (version {version}) is not served; ApiVersions lists what is"
        ))
    })?;
    check_size(api, length, is_first, config)?;
    let Some(frame) = input.get(..need_bytes) else {
        return Ok(Front::Incomplete { need_bytes });
    };
    let versions = api.versions();
    if !(versions.first..=versions.last).contains(&version) {
        if api == Api::ApiVersions {
            return Ok(Front::UnknownApiVersions {
                correlation,
                bytes: need_bytes,
            });
        }
        let (first, last) = (versions.first, versions.last);
        return Err(violation(format!(
            "{api:?} version {version} is not served, only {first} to {last}"
        )));
    }
    let mut request = Request {
        api,
        version,
        correlation,
        client_id: "",
        body: &frame[PREFIX_BYTES..],
    };
    let (client_id, body) = split(&request, config).map_err(|error| request.malformed(error))?;
    (request.client_id, request.body) = (client_id, body);
    Ok(Front::Whole {
        request,
        bytes: need_bytes,
    })
}

/// Cuts requests from any bytes, as a connection does.
pub fn fuzz_decode(bytes: &[u8]) {
    let config = KafkaConfig::default();
    let mut at = 0;
    while let Ok(
        Front::Whole { bytes: taken, .. } | Front::UnknownApiVersions { bytes: taken, .. },
    ) = front(&bytes[at..], at == 0, &config)
    {
        at += taken;
    }
}

/// The declared length, if it can be a request at all.
fn frame_length(length: [u8; 4], config: &KafkaConfig) -> Result<usize, ProtocolViolation> {
    let signed = i32::from_be_bytes(length);
    let max = config.request_bytes_max;
    match usize::try_from(signed) {
        Ok(bytes) if (REQUEST_BYTES_MIN..=max).contains(&bytes) => Ok(bytes),
        // A TLS record starts with its type, 0x16 for a handshake, and its version, 0x03.
        _ if length[..2] == [0x16, 0x03] => Err(violation(
            "a TLS handshake on a plaintext listener: set security.protocol=PLAINTEXT",
        )),
        _ if length.iter().all(u8::is_ascii_graphic) || length.starts_with(b"GET ") => Err(
            violation("text where a request's length should be: this port speaks Kafka's protocol"),
        ),
        _ => Err(violation(format!(
            "a request of {signed} bytes is outside {REQUEST_BYTES_MIN} to \
             listeners.kafka.request_bytes_max = {max}"
        ))),
    }
}

/// Only Produce has a use for large requests. A first one has none to be large, unless its client
/// skips the handshake on connections that are for data alone, as kafkajs does. Memory is no
/// reason to tell them apart: it follows the bytes that arrive.
fn check_size(
    api: Api,
    length: usize,
    is_first: bool,
    config: &KafkaConfig,
) -> Result<(), ProtocolViolation> {
    let (name, max) = if api == Api::Produce {
        (
            "listeners.kafka.request_bytes_max",
            config.request_bytes_max,
        )
    } else if is_first && api != Api::Fetch {
        (
            "listeners.kafka.first_request_bytes_max",
            config.first_request_bytes_max,
        )
    } else {
        (
            "listeners.kafka.control_request_bytes_max",
            config.control_request_bytes_max,
        )
    };
    if length > max {
        return Err(violation(format!(
            "{api:?} request of {length} bytes is larger than {name} = {max}"
        )));
    }
    Ok(())
}

/// Takes the client id and skips the rest of the header: what is left is the body.
fn split<'a>(
    request: &Request<'a>,
    config: &KafkaConfig,
) -> Result<(&'a str, &'a [u8]), DecodeError> {
    // The client id keeps its fixed-width length in every header version.
    let mut reader = Reader::new(request.body, false, config.request_items_max);
    let client_id = reader.nullable_text()?.unwrap_or_default();
    let mut reader = Reader::new(
        reader.rest(),
        request.is_flexible(),
        config.request_items_max,
    );
    reader.tags()?;
    Ok((client_id, reader.rest()))
}

fn violation(reason: impl Into<String>) -> ProtocolViolation {
    ProtocolViolation {
        reason: reason.into(),
    }
}
