//! Request heads: what httparse found, checked against RFC 9112.

use alloc::format;
use alloc::string::{String, ToString};

use super::error::{ApiError, Code};

/// Longest request head in bytes.
pub const HEAD_LIMIT: usize = 8 * 1024;
/// Most fields in a request head.
pub const FIELD_LIMIT: usize = 32;

/// Request methods. Others are not known to any resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: GET without the body.
    Head,
    /// POST.
    Post,
    /// DELETE.
    Delete,
    /// Any other.
    Other,
}

/// A request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, before any `?`; begins with `/`.
    pub path: String,
    /// What follows the `?`.
    pub query: Option<String>,
    /// `Content-Length`, if there is one.
    pub content_length: Option<u64>,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client wants the connection to go on.
    pub keep_alive: bool,
}

/// What a head turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Partial,
    /// A request, and the length of its head.
    Complete(Request, usize),
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::operator(Code::BadRequest, message)
}

/// Parses the head at the front of `input`.
///
/// # Errors
/// What is sent back; the connection cannot go on, since the end of the request is not known.
pub fn parse(input: &[u8]) -> Result<Head, ApiError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut parsed = httparse::Request::new(&mut fields);
    // Bytes after the limit belong to a body, if to anything.
    let visible = input.get(..HEAD_LIMIT).unwrap_or(input);
    let length = match parsed.parse(visible) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if visible.len() == HEAD_LIMIT => {
            return Err(ApiError::operator(Code::HeadTooLarge, format!("the request head exceeds {HEAD_LIMIT} bytes")));
        }
        Ok(httparse::Status::Partial) => return Ok(Head::Partial),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ApiError::operator(
                Code::HeadTooLarge,
                format!("the request head has more than {FIELD_LIMIT} fields"),
            ));
        }
        Err(httparse::Error::Version) => {
            return Err(ApiError::operator(Code::HttpVersion, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
        }
        Err(error) => return Err(bad(format!("not an HTTP/1.1 request: {error}"))),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("not an HTTP/1.1 request"));
    };
    let request = check(method, target, minor, parsed.headers)?;
    Ok(Head::Complete(request, length))
}

fn check(method: &str, target: &str, minor: u8, fields: &[httparse::Header<'_>]) -> Result<Request, ApiError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if !path.starts_with('/') {
        return Err(bad("the request target must be a path"));
    }
    let mut hosts = 0_u32;
    let mut content_length = None;
    let mut chunked = false;
    let mut expect_continue = false;
    let mut keep_alive = minor >= 1;
    for field in fields {
        let name = field.name;
        let value = core::str::from_utf8(field.value).map(str::trim).unwrap_or_default();
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("content-length") {
            // Two lengths are two opinions about where the next request begins (RFC 9112, 6.3).
            if content_length.is_some() {
                return Err(bad("more than one Content-Length"));
            }
            content_length = Some(decimal(value).ok_or_else(|| bad("Content-Length is not a number"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        } else if name.eq_ignore_ascii_case("expect") {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(ApiError::operator(Code::ExpectationFailed, "only 100-continue can be expected"));
            }
            expect_continue = minor >= 1;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    keep_alive = false;
                }
            }
        }
    }
    if chunked && content_length.is_some() {
        return Err(bad("Transfer-Encoding and Content-Length exclude each other"));
    }
    if chunked {
        return Err(ApiError::operator(
            Code::LengthRequired,
            "chunked bodies are not accepted: send the body with a Content-Length",
        ));
    }
    if hosts > 1 || (minor >= 1 && hosts == 0) {
        return Err(bad("an HTTP/1.1 request has exactly one Host field"));
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    };
    Ok(Request {
        method,
        path: path.to_string(),
        query: query.map(ToString::to_string),
        content_length,
        expect_continue,
        keep_alive,
    })
}

/// Digits only: no sign, no space, no overflow.
fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}
