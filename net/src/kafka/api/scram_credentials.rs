//! DescribeUserScramCredentials and AlterUserScramCredentials, version 0: nobody has a password
//! here.

use std::collections::BTreeMap;

use kafka_protocol::messages::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse,
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    alter_user_scram_credentials_response as altered,
    describe_user_scram_credentials_response as described,
};
use kafka_protocol::protocol::StrBytes;

use super::{Call, Handled, ReplyTo, decode, text};
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

pub(super) fn describe(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeUserScramCredentialsRequest = decode(call, request)?;
    let mut times: BTreeMap<StrBytes, usize> = BTreeMap::new();
    for user in body.users.unwrap_or_default() {
        *times.entry(user.name).or_default() += 1;
    }
    let results = times.into_iter().map(|(user, times)| match times {
        1 => unknown(user),
        _ => named_again(user),
    });
    let response = DescribeUserScramCredentialsResponse::default()
        .with_error_message(None)
        .with_results(results.collect());
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

fn unknown(user: StrBytes) -> described::DescribeUserScramCredentialsResult {
    let words = "Attempt to describe a user credential that does not exist";
    described::DescribeUserScramCredentialsResult::default()
        .with_user(user)
        .with_error_code(ErrorCode::ResourceNotFound.code())
        .with_error_message(Some(StrBytes::from_static_str(words)))
}

fn named_again(user: StrBytes) -> described::DescribeUserScramCredentialsResult {
    let words = "Cannot describe SCRAM credentials for the same user twice in a single request";
    described::DescribeUserScramCredentialsResult::default()
        .with_user(user)
        .with_error_code(ErrorCode::DuplicateResource.code())
        .with_error_message(Some(StrBytes::from_static_str(words)))
}

pub(super) fn alter(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: AlterUserScramCredentialsRequest = decode(call, request)?;
    let deletions = body.deletions.into_iter().map(|deletion| {
        let words = "Attempt to delete a user credential that does not exist";
        refused(deletion.name, ErrorCode::ResourceNotFound, words)
    });
    let upsertions = body.upsertions.into_iter().map(|upsertion| {
        let words = "this broker has no users: clients are not authenticated";
        refused(upsertion.name, ErrorCode::UnsupportedSaslMechanism, words)
    });
    let results = deletions.chain(upsertions);
    let response = AlterUserScramCredentialsResponse::default().with_results(results.collect());
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

fn refused(
    user: StrBytes,
    code: ErrorCode,
    words: &str,
) -> altered::AlterUserScramCredentialsResult {
    altered::AlterUserScramCredentialsResult::default()
        .with_user(user)
        .with_error_code(code.code())
        .with_error_message(Some(text(words)))
}
