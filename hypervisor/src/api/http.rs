//! One HTTP/1.1 connection over a [`Channel`]: a state machine that is polled.
//!
//! Bodies are streamed: the connection never holds more than one buffer of a
//! request. Every state has a deadline, so that no client can keep a slot.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Poll;

use crate::net::channel::{Channel, ChannelError};

use super::error::{ApiError, Code};
use super::request::{self, Head, Method, Request};
use super::response::Response;

/// Bytes of input held: a request head, or a piece of a body.
const INPUT: usize = 16 * 1024;
const _: () = assert!(INPUT > request::HEAD_LIMIT);
/// Steps of the state machine in one poll.
const STEPS: usize = 64;
/// How often a pending answer is asked for, in milliseconds.
const PENDING_MS: u64 = 10;

/// Patience with a client, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between requests, or before the first.
    pub idle: u64,
    /// From the first byte of a request head to its last.
    pub head: u64,
    /// Between two pieces of a body.
    pub body_gap: u64,
    /// For a whole body.
    pub body: u64,
    /// Between two pieces of a response that the client takes.
    pub write: u64,
    /// For a whole response.
    pub response: u64,
    /// From the end of the last response, or the last piece of an unwanted body, to
    /// the end of the connection; ten times this in all.
    pub linger: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: 10_000,
            head: 10_000,
            body_gap: 10_000,
            body: 600_000,
            write: 10_000,
            response: 60_000,
            linger: 3_000,
        }
    }
}

/// What a handler wants to do with a request.
#[derive(Debug)]
pub enum Begin {
    /// Answer without the body.
    Respond(Response),
    /// Take the body: `body` for each piece, then `finish`, or `abort`.
    Body,
}

/// Who answers requests. One request at a time.
pub trait Handler {
    /// A request head has arrived.
    fn begin(&mut self, request: &Request) -> Begin;
    /// A piece of the body.
    ///
    /// # Errors
    /// The answer; neither `finish` nor `abort` follows.
    fn body(&mut self, chunk: &[u8]) -> Result<(), Response>;
    /// The whole body has been passed on.
    fn finish(&mut self) -> Poll<Response>;
    /// The client is gone, or too slow, after [`Begin::Body`] and before `finish` was ready.
    fn abort(&mut self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A request head is awaited.
    Head,
    /// So many bytes of the body are missing; none is accepted after `until`.
    Body { missing: u64, until: u64 },
    /// The handler is still busy with the body.
    Finishing,
    /// A response is being sent.
    Responding,
    /// The last response is out; the client is given time to take it, and what it
    /// still sends is read and dropped, lest a reset overtake the response.
    Closing { until: u64 },
    /// Nothing more to do; the channel is closed or will be dropped.
    Dead,
}

enum Step {
    Again,
    Wait,
}

/// One connection.
pub struct Connection {
    state: State,
    timeouts: Timeouts,
    input: Box<[u8]>,
    /// Bytes of `input` in use, from its start.
    held: usize,
    /// `input` holds bytes that no parser has seen.
    unseen: bool,
    output: Vec<u8>,
    sent: usize,
    /// The running response, or the running request, is the last one.
    last: bool,
    head_only: bool,
    /// When the state ends, unless something moves.
    deadline: u64,
    /// When the response must be out, whatever moves.
    output_until: u64,
    idle_since: u64,
    served: u64,
}

impl Connection {
    /// A connection that was accepted at `now` (milliseconds, monotonic).
    #[must_use]
    pub fn new(timeouts: Timeouts, now: u64) -> Self {
        Self {
            state: State::Head,
            timeouts,
            input: vec![0; INPUT].into_boxed_slice(),
            held: 0,
            unseen: false,
            output: Vec::new(),
            sent: 0,
            last: false,
            head_only: false,
            deadline: now.saturating_add(timeouts.idle),
            output_until: u64::MAX,
            idle_since: now,
            served: 0,
        }
    }

    /// Since when the client has asked for nothing; `None` while it does.
    #[must_use]
    pub fn idle_since(&self) -> Option<u64> {
        (self.state == State::Head && self.held == 0 && self.output.is_empty()).then_some(self.idle_since)
    }

    /// Requests answered.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served
    }

    /// The response that ends the connection has been handed to the channel whole.
    #[must_use]
    pub fn responded(&self) -> bool {
        matches!(self.state, State::Closing { .. } | State::Dead)
    }

    /// Ends an idle connection.
    pub fn end(&mut self, now: u64, channel: &mut dyn Channel) {
        if self.idle_since().is_some() {
            self.close(now, channel);
        }
    }

    /// The channel is gone: the handler is told, if it is in the middle of a body.
    pub fn abandon(&mut self, handler: &mut dyn Handler) {
        if matches!(self.state, State::Body { .. } | State::Finishing) {
            handler.abort();
        }
        self.state = State::Dead;
    }

    /// Moves on as far as the channel allows. Returns when to poll again if nothing
    /// arrives before; `u64::MAX`: only then.
    pub fn poll(&mut self, now: u64, channel: &mut dyn Channel, handler: &mut dyn Handler) -> u64 {
        for _ in 0..STEPS {
            match self.step(now, channel, handler) {
                Step::Again => {}
                Step::Wait => {
                    return match self.state {
                        State::Finishing => now.saturating_add(PENDING_MS),
                        State::Dead => u64::MAX,
                        _ => self.deadline,
                    };
                }
            }
        }
        now
    }

    fn step(&mut self, now: u64, channel: &mut dyn Channel, handler: &mut dyn Handler) -> Step {
        if self.sent < self.output.len() {
            return self.flush(now, channel, handler);
        }
        match self.state {
            State::Head => self.step_head(now, channel, handler),
            State::Body { missing, until } => self.step_body(now, missing, until, channel, handler),
            State::Finishing => match handler.finish() {
                Poll::Ready(response) => self.respond(now, &response),
                Poll::Pending => Step::Wait,
            },
            State::Responding => {
                self.served += 1;
                if self.last {
                    self.close(now, channel);
                } else {
                    self.state = State::Head;
                    self.unseen = self.held > 0;
                    self.idle_since = now;
                    self.deadline = now.saturating_add(self.timeouts.idle);
                }
                Step::Again
            }
            State::Closing { until } => self.step_closing(now, until, channel),
            State::Dead => Step::Wait,
        }
    }

    /// Sends pending output: a response, or `100 Continue`.
    fn flush(&mut self, now: u64, channel: &mut dyn Channel, handler: &mut dyn Handler) -> Step {
        let pending = self.output.get(self.sent..).unwrap_or_default();
        match channel.write(pending) {
            Ok(written) => {
                self.sent += written;
                if self.sent >= self.output.len() {
                    self.output.clear();
                    self.sent = 0;
                }
                let gap = match self.state {
                    State::Body { .. } => self.timeouts.body_gap,
                    _ => self.timeouts.write,
                };
                self.deadline = now.saturating_add(gap).min(self.output_until);
                Step::Again
            }
            Err(ChannelError::WouldBlock) if now < self.deadline => Step::Wait,
            Err(_) => self.drop_channel(channel, handler),
        }
    }

    fn step_head(&mut self, now: u64, channel: &mut dyn Channel, handler: &mut dyn Handler) -> Step {
        if self.unseen {
            self.unseen = false;
            match request::parse(self.input.get(..self.held).unwrap_or_default()) {
                Ok(Head::Partial) => {}
                Ok(Head::Complete(request, length)) => {
                    self.consume(length);
                    return self.begin(now, &request, handler);
                }
                Err(error) => return self.refuse(now, error),
            }
        }
        let was_idle = self.held == 0;
        match self.fill(channel) {
            Ok(()) => {
                self.unseen = true;
                if was_idle {
                    self.deadline = now.saturating_add(self.timeouts.head);
                }
                Step::Again
            }
            Err(ChannelError::WouldBlock) if now < self.deadline => Step::Wait,
            Err(ChannelError::WouldBlock) if !was_idle => {
                self.refuse(now, ApiError::operator(Code::Timeout, "the request head took too long"))
            }
            Err(_) => {
                self.close(now, channel);
                Step::Again
            }
        }
    }

    fn begin(&mut self, now: u64, request: &Request, handler: &mut dyn Handler) -> Step {
        let length = request.content_length.unwrap_or(0);
        self.head_only = request.method == Method::Head;
        self.last = !request.keep_alive;
        match handler.begin(request) {
            Begin::Respond(response) => {
                // The body will not be read, so the next request cannot be found.
                self.last |= length > 0;
                self.respond(now, &response)
            }
            Begin::Body => {
                if request.expect_continue && self.held == 0 && length > 0 {
                    self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    self.output_until = now.saturating_add(self.timeouts.response);
                }
                self.state = State::Body { missing: length, until: now.saturating_add(self.timeouts.body) };
                self.deadline = now.saturating_add(self.timeouts.body_gap);
                Step::Again
            }
        }
    }

    fn step_body(
        &mut self,
        now: u64,
        missing: u64,
        until: u64,
        channel: &mut dyn Channel,
        handler: &mut dyn Handler,
    ) -> Step {
        if missing == 0 {
            self.state = State::Finishing;
            return Step::Again;
        }
        if self.held > 0 {
            let take = usize::try_from(missing).map_or(self.held, |missing| missing.min(self.held));
            let result = handler.body(self.input.get(..take).unwrap_or_default());
            self.consume(take);
            if let Err(response) = result {
                self.last = true;
                return self.respond(now, &response);
            }
            self.state = State::Body { missing: missing - take as u64, until };
            return Step::Again;
        }
        match self.fill(channel) {
            Ok(()) if now < until => {
                self.deadline = now.saturating_add(self.timeouts.body_gap).min(until);
                Step::Again
            }
            Err(ChannelError::WouldBlock) if now < self.deadline.min(until) => Step::Wait,
            Ok(()) | Err(ChannelError::WouldBlock) => {
                handler.abort();
                self.refuse(now, ApiError::operator(Code::Timeout, "the request body took too long"))
            }
            Err(ChannelError::Closed) => {
                // The client may have closed only its half: tell it.
                handler.abort();
                self.refuse(now, ApiError::operator(Code::BadRequest, "the body is shorter than its Content-Length"))
            }
        }
    }

    fn step_closing(&mut self, now: u64, until: u64, channel: &mut dyn Channel) -> Step {
        self.held = 0;
        match self.fill(channel) {
            Ok(()) if now < self.deadline => {
                self.deadline = now.saturating_add(self.timeouts.linger).min(until);
                Step::Again
            }
            Err(ChannelError::WouldBlock) if now < self.deadline => Step::Wait,
            Err(ChannelError::Closed) if now < self.deadline && !channel.flushed() => Step::Wait,
            Err(ChannelError::Closed) => {
                self.state = State::Dead;
                Step::Wait
            }
            Ok(()) | Err(ChannelError::WouldBlock) => {
                channel.abort();
                self.state = State::Dead;
                Step::Wait
            }
        }
    }

    /// An answer to something that is not a request, or not a whole one.
    fn refuse(&mut self, now: u64, error: ApiError) -> Step {
        self.last = true;
        self.head_only = false;
        self.respond(now, &Response::from(error))
    }

    fn respond(&mut self, now: u64, response: &Response) -> Step {
        self.last |= response.close;
        response.write_to(&mut self.output, self.last, self.head_only);
        self.state = State::Responding;
        self.deadline = now.saturating_add(self.timeouts.write);
        self.output_until = now.saturating_add(self.timeouts.response);
        Step::Again
    }

    fn close(&mut self, now: u64, channel: &mut dyn Channel) {
        channel.close();
        self.state = State::Closing { until: now.saturating_add(self.timeouts.linger.saturating_mul(10)) };
        self.deadline = now.saturating_add(self.timeouts.linger);
    }

    /// The client takes nothing any more.
    fn drop_channel(&mut self, channel: &mut dyn Channel, handler: &mut dyn Handler) -> Step {
        channel.abort();
        self.output.clear();
        self.sent = 0;
        self.abandon(handler);
        Step::Wait
    }

    /// Reads behind what is held.
    fn fill(&mut self, channel: &mut dyn Channel) -> Result<(), ChannelError> {
        let free = self.input.get_mut(self.held..).unwrap_or_default();
        let read = channel.read(free)?.min(free.len());
        self.held += read;
        if read == 0 { Err(ChannelError::WouldBlock) } else { Ok(()) }
    }

    /// Forgets the first `count` bytes of the input.
    fn consume(&mut self, count: usize) {
        let count = count.min(self.held);
        self.input.copy_within(count..self.held, 0);
        self.held -= count;
    }
}
