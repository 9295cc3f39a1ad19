//! How the tool ends: 0 done, 1 failed, 2 bad input, 3 would change, 4 somebody else was first, 5 not allowed.

use std::fmt;

use hyper::StatusCode;

/// Bad input, told in one sentence.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// What a control plane did not do, told in one sentence.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    reason: String,
}

impl Exit {
    /// By the status of its answer.
    pub(crate) const fn of(status: StatusCode, reason: String) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => 2,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => 4,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 5,
            _ => 1,
        };
        Self { code, reason }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Exit {}

/// The code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<BadInput>() {
        return 2;
    }
    error.downcast_ref::<Exit>().map_or(1, |exit| exit.code)
}
