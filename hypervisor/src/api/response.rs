//! Responses, as bytes.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use serde::Serialize;

use super::error::{ApiError, Code, ErrorBody};

/// A response before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// `Allow` field of a 405.
    pub allow: Option<&'static str>,
    /// The connection ends with this response.
    pub close: bool,
}

/// The body when not even an error can be serialized.
const FALLBACK: &[u8] =
    br#"{"error":{"code":"internal","message":"the response could not be serialized","blame":"baton"}}"#;

impl Response {
    /// A JSON body.
    pub fn json<T: Serialize>(status: u16, body: &T) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self::new(status, "application/json", body),
            Err(_) => Self::new(Code::Internal.status(), "application/json", FALLBACK.to_vec()),
        }
    }

    /// Any body.
    #[must_use]
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, body, allow: None, close: false }
    }

    /// The connection ends with this response.
    #[must_use]
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Appends the response to `output`. `head_only` leaves the body out, as HEAD demands.
    pub(super) fn write_to(&self, output: &mut Vec<u8>, close: bool, head_only: bool) {
        let mut head = Text(output);
        // Writing to a Vec does not fail.
        let _written = write!(
            head,
            "HTTP/1.1 {} {}\r\nServer: baton\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: {}\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len(),
            if close { "close" } else { "keep-alive" },
        );
        if let Some(allow) = self.allow {
            let _written = write!(head, "Allow: {allow}\r\n");
        }
        output.extend_from_slice(b"\r\n");
        if !head_only {
            output.extend_from_slice(&self.body);
        }
    }
}

impl From<&ApiError> for Response {
    fn from(error: &ApiError) -> Self {
        Self::json(error.code.status(), &ErrorBody::from(error))
    }
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        Self::from(&error)
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The reason phrase; clients ignore it, people read it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
