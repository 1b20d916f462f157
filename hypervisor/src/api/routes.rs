//! Which request does what.

use core::task::Poll;

use serde::Serialize;

use super::control::{Control, Finished, UploadId};
use super::error::{ApiError, Code};
use super::http::{Begin, Handler};
use super::metrics;
use super::request::{Method, Request};
use super::response::Response;
use super::types::{Plan, UpgradeState};

/// What one connection has under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange {
    upload: Option<Upload>,
    /// An accepted upgrade whose response is on its way; the server takes it.
    pub(super) accepted: Option<UploadId>,
    /// An upgrade that this connection cancelled; the server takes it.
    pub(super) cancelled: Option<UploadId>,
}

#[derive(Clone, Copy, Debug)]
struct Upload {
    id: UploadId,
    dry_run: bool,
}

/// The handler of one connection.
pub struct Routes<'a> {
    control: &'a mut dyn Control,
    exchange: &'a mut Exchange,
}

#[derive(Serialize)]
struct Accepted {
    id: u64,
    state: UpgradeState,
}

#[derive(Serialize)]
struct Planned<'a> {
    plan: &'a Plan,
}

#[derive(Serialize)]
struct Cancelled {
    id: u64,
    state: &'static str,
}

#[derive(Clone, Copy)]
enum Resource {
    Status,
    Guests,
    Iommu,
    Devices,
    Upgrade,
    Metrics,
}

impl Resource {
    fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/status" => Self::Status,
            "/v1/guests" => Self::Guests,
            "/v1/iommu" => Self::Iommu,
            "/v1/devices" => Self::Devices,
            "/v1/upgrade" => Self::Upgrade,
            "/metrics" => Self::Metrics,
            _ => return None,
        })
    }

    fn allow(self) -> &'static str {
        match self {
            Self::Upgrade => "GET, HEAD, POST, DELETE",
            _ => "GET, HEAD",
        }
    }
}

impl<'a> Routes<'a> {
    /// Joins a connection's state with the hypervisor.
    pub fn new(control: &'a mut dyn Control, exchange: &'a mut Exchange) -> Self {
        Self { control, exchange }
    }

    fn route(&mut self, request: &Request) -> Result<Begin, ApiError> {
        let Some(resource) = Resource::find(&request.path) else {
            return Err(ApiError::operator(
                Code::NotFound,
                "no such path: there are /v1/status, /v1/guests, /v1/iommu, /v1/devices, /v1/upgrade and /metrics",
            ));
        };
        let upload = matches!((resource, request.method), (Resource::Upgrade, Method::Post));
        if !upload && request.query.as_deref().is_some_and(|query| !query.is_empty()) {
            return Err(ApiError::operator(Code::BadRequest, "this request takes no parameters"));
        }
        if !upload && request.content_length.unwrap_or(0) > 0 {
            return Err(ApiError::operator(Code::BadRequest, "this request takes no body"));
        }
        let response = match (request.method, resource) {
            (Method::Get | Method::Head, Resource::Status) => Response::json(200, &self.control.status()),
            (Method::Get | Method::Head, Resource::Guests) => Response::json(200, &self.control.guests()),
            (Method::Get | Method::Head, Resource::Iommu) => Response::json(200, &self.control.iommu()),
            (Method::Get | Method::Head, Resource::Devices) => Response::json(200, &self.control.devices()),
            (Method::Get | Method::Head, Resource::Upgrade) => Response::json(200, &self.control.upgrade_progress()),
            (Method::Get | Method::Head, Resource::Metrics) => metrics::response(self.control),
            (Method::Post, Resource::Upgrade) => return self.begin_upload(request),
            (Method::Delete, Resource::Upgrade) => {
                let id = self.control.cancel()?;
                self.exchange.cancelled = Some(id);
                Response::json(200, &Cancelled { id: id.0, state: "cancelled" })
            }
            _ => {
                let error = ApiError::operator(Code::MethodNotAllowed, "the path does not know this method");
                Response { allow: Some(resource.allow()), ..Response::from(error) }
            }
        };
        Ok(Begin::Respond(response))
    }

    fn begin_upload(&mut self, request: &Request) -> Result<Begin, ApiError> {
        let dry_run = dry_run(request.query.as_deref().unwrap_or(""))?;
        let length = match request.content_length {
            None => {
                return Err(ApiError::operator(Code::LengthRequired, "send the image with a Content-Length"));
            }
            Some(0) => return Err(ApiError::operator(Code::BadImage, "the image is empty")),
            Some(length) => length,
        };
        let id = self.control.begin_upgrade(length, dry_run)?;
        self.exchange.upload = Some(Upload { id, dry_run });
        Ok(Begin::Body)
    }
}

impl Handler for Routes<'_> {
    fn begin(&mut self, request: &Request) -> Begin {
        self.route(request).unwrap_or_else(|error| Begin::Respond(error.into()))
    }

    fn body(&mut self, chunk: &[u8]) -> Result<(), Response> {
        let Some(upload) = self.exchange.upload else {
            return Err(lost());
        };
        self.control.upload(upload.id, chunk).map_err(|error| {
            self.exchange.upload = None;
            error.into()
        })
    }

    fn finish(&mut self) -> Poll<Response> {
        let Some(upload) = self.exchange.upload else {
            return Poll::Ready(lost());
        };
        let response = match self.control.finish_upload(upload.id) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Finished::Plan(plan))) => Response::json(200, &Planned { plan: &plan }),
            Ok(Poll::Ready(Finished::Accepted(state))) if !upload.dry_run => {
                self.exchange.accepted = Some(upload.id);
                // The switch waits for the end of this connection.
                Response::json(202, &Accepted { id: upload.id.0, state }).closing()
            }
            Ok(Poll::Ready(Finished::Accepted(_))) => {
                self.control.abort_upload(upload.id);
                ApiError::new(Code::Internal, super::error::Blame::Baton, "a dry run was taken for an upgrade").into()
            }
            Err(error) => error.into(),
        };
        self.exchange.upload = None;
        Poll::Ready(response)
    }

    fn abort(&mut self) {
        if let Some(upload) = self.exchange.upload.take() {
            self.control.abort_upload(upload.id);
        }
    }
}

/// A body without an upload: the connection and the routes disagree.
fn lost() -> Response {
    ApiError::new(Code::Internal, super::error::Blame::Baton, "the upload is not known").into()
}

/// The only parameter there is.
fn dry_run(query: &str) -> Result<bool, ApiError> {
    match query {
        "" | "dry_run=0" | "dry_run=false" => Ok(false),
        "dry_run=1" | "dry_run=true" => Ok(true),
        // A misspelt dry run must not become an upgrade.
        _ => Err(ApiError::operator(Code::BadRequest, "the only parameter is dry_run, 0 or 1")),
    }
}
