//! DescribeTransactions, version 0, and ListTransactions, versions 0 to 2: there are none.

use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    ListTransactionsResponse,
};

use super::{Call, Handled, ReplyTo, decode};
use crate::kafka::errors::ErrorCode;
use crate::kafka::frame::Request;
use crate::session::ProtocolViolation;

/// Every state of a transaction that Kafka has a name for.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(super) fn describe(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: DescribeTransactionsRequest = decode(call, request)?;
    let states = body.transactional_ids.into_iter().map(|id| {
        TransactionState::default()
            .with_transactional_id(id)
            .with_error_code(ErrorCode::TransactionalIdNotFound.code())
    });
    let response =
        DescribeTransactionsResponse::default().with_transaction_states(states.collect());
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}

pub(super) fn list(
    call: &mut Call<'_>,
    request: &Request<'_>,
) -> Result<Handled, ProtocolViolation> {
    let body: ListTransactionsRequest = decode(call, request)?;
    let mut unknown = body.state_filters;
    unknown.retain(|state| !STATES.contains(&state.as_str()));
    let response = ListTransactionsResponse::default().with_unknown_state_filters(unknown);
    let reply_to = ReplyTo::new(call.config, request);
    reply_to.frame(&response).map(Handled::Reply)
}
