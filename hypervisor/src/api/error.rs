//! Refusals: a code for programs, a message for people, and who can change it.

use alloc::string::String;
use core::fmt;

use serde::Serialize;

/// Who is to blame for a failure, and so who can put it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The request, the image or the configuration.
    Operator,
    /// A guest.
    Guest,
    /// ACPI tables or other firmware data.
    Firmware,
    /// A device or the platform.
    Hardware,
    /// Baton itself.
    Baton,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// The word in the JSON body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status it travels with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// Not HTTP, or a request that makes no sense.
    BadRequest = "bad_request", 400;
    /// No such path.
    NotFound = "not_found", 404;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The client took too long.
    Timeout = "timeout", 408;
    /// An upgrade is running already.
    Busy = "busy", 409;
    /// There is nothing to cancel.
    NotRunning = "not_running", 409;
    /// The upgrade is past FREEZE and cannot be cancelled.
    TooLate = "too_late", 409;
    /// A body without `Content-Length`.
    LengthRequired = "length_required", 411;
    /// The image does not fit the slot.
    TooLarge = "too_large", 413;
    /// An `Expect` other than `100-continue`.
    ExpectationFailed = "expectation_failed", 417;
    /// Not a Baton image, truncated or damaged.
    BadImage = "bad_image", 422;
    /// Missing, wrong or unknown signature.
    BadSignature = "bad_signature", 422;
    /// The image cannot read what this one writes, or the other way round.
    VersionRange = "version_range", 422;
    /// Something cannot be preserved.
    NotPreservable = "not_preservable", 422;
    /// The image was tried and failed before COMMIT.
    RolledBack = "rolled_back", 422;
    /// The upgrade was cancelled.
    Cancelled = "cancelled", 409;
    /// The request head is longer than 8 KiB or has more than 32 fields.
    HeadTooLarge = "head_too_large", 431;
    /// A defect of Baton.
    Internal = "internal", 500;
    /// This build or this machine cannot do it.
    Unsupported = "unsupported", 501;
    /// Not now: starting, stopping or out of memory.
    Unavailable = "unavailable", 503;
    /// Not HTTP/1.0 or HTTP/1.1.
    HttpVersion = "http_version", 505;
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// For programs; also the HTTP status.
    pub code: Code,
    /// Cause and remedy, for people.
    pub message: String,
    /// Who can change it.
    pub blame: Blame,
    /// The report of the upgrade that was refused, if one was written.
    pub report_id: Option<u64>,
}

impl ApiError {
    /// A refusal without a report.
    pub fn new(code: Code, blame: Blame, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), blame, report_id: None }
    }

    /// A refusal that the client caused.
    pub fn operator(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Blame::Operator, message)
    }

    /// The same refusal, with the report it is written up in.
    #[must_use]
    pub fn with_report(self, id: u64) -> Self {
        Self { report_id: Some(id), ..self }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl core::error::Error for ApiError {}

/// `{"error":{...}}`.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'static str,
    message: &'a str,
    blame: Blame,
    #[serde(skip_serializing_if = "Option::is_none")]
    report_id: Option<u64>,
}

impl<'a> From<&'a ApiError> for ErrorBody<'a> {
    fn from(error: &'a ApiError) -> Self {
        Self {
            error: ErrorFields {
                code: error.code.as_str(),
                message: &error.message,
                blame: error.blame,
                report_id: error.report_id,
            },
        }
    }
}
