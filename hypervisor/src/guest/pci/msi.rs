//! MSI of an assigned function (PCI 3.0 6.8.1), with one vector.

use super::access::{Context, MSI_ENTRY, Route};
use super::config::masked;
use crate::guest::message::MsiMessage;

const CONTROL_ENABLE: u32 = 1 << 0;
const CONTROL_WIDE: u32 = 1 << 7;
const CONTROL_MASKABLE: u32 = 1 << 8;

/// MSI registers as the guest set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiState {
    /// The guest's message.
    pub guest: MsiMessage,
    /// What the hardware was programmed with, if `routed`.
    pub host: MsiMessage,
    /// 1 while enabled.
    pub enabled: u32,
    /// 1 while the vector is masked.
    pub masked: u32,
    /// 1 if the interrupt has a route.
    pub routed: u32,
}

/// The virtual capability and what the physical one was told.
#[derive(Clone, Debug)]
pub(super) struct Msi {
    offset: u16,
    wide: bool,
    maskable: bool,
    enabled: bool,
    message: MsiMessage,
    masked: bool,
    route: Option<Route>,
}

impl Msi {
    pub(super) const fn new(offset: u16, control: u32) -> Self {
        Self {
            offset,
            wide: control & CONTROL_WIDE != 0,
            maskable: control & CONTROL_MASKABLE != 0,
            enabled: false,
            message: MsiMessage { address: 0, data: 0 },
            masked: false,
            route: None,
        }
    }

    /// Byte offsets within the capability: data, mask, pending.
    const fn layout(&self) -> (u16, u16, u16) {
        if self.wide { (0xC, 0x10, 0x14) } else { (8, 0xC, 0x10) }
    }

    fn control(&self) -> u32 {
        let flag = |set, bit| if set { bit } else { 0 };
        flag(self.enabled, CONTROL_ENABLE) | flag(self.wide, CONTROL_WIDE) | flag(self.maskable, CONTROL_MASKABLE)
    }

    /// The dword at byte `at` of the capability, without the list header.
    pub(super) fn read(&self, at: u16, context: &mut Context<'_>) -> u32 {
        let (data, mask, pending) = self.layout();
        match at {
            0 => self.control() << 16,
            4 => self.message.address as u32,
            8 if self.wide => (self.message.address >> 32) as u32,
            _ if at == data => self.message.data,
            _ if at == mask && self.maskable => u32::from(self.masked),
            _ if at == pending && self.maskable => context.hardware.config_read(self.offset + pending, 4) & 1,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, at: u16, value: u32, mask: u32, context: &mut Context<'_>) {
        let (data, mask_bits, _) = self.layout();
        let address = self.message.address;
        match at {
            0 => self.enabled = masked(self.control() << 16, value, mask) >> 16 & CONTROL_ENABLE != 0,
            4 => {
                let low = masked(address as u32, value, mask) & !3;
                self.message.address = address & !0xFFFF_FFFF | u64::from(low);
            }
            8 if self.wide => {
                let high = masked((address >> 32) as u32, value, mask);
                self.message.address = address & 0xFFFF_FFFF | u64::from(high) << 32;
            }
            _ if at == data => self.message.data = masked(self.message.data, value, mask) & 0xFFFF,
            _ if at == mask_bits && self.maskable => self.masked = masked(u32::from(self.masked), value, mask) & 1 != 0,
            _ => return,
        }
        self.apply(at == mask_bits, context);
    }

    /// Makes the hardware follow. The enable bit is set last and cleared first.
    fn apply(&mut self, mask_changed: bool, context: &mut Context<'_>) {
        if !self.enabled {
            self.stop(context);
            return;
        }
        let old = self.route;
        if old.is_none_or(|route| route.guest != self.message) {
            self.route = context.route(MSI_ENTRY, self.message, old);
        }
        let Some(route) = self.route else {
            if old.is_some() {
                self.write_control(context, false);
            }
            return;
        };
        let (data, mask_bits, _) = self.layout();
        if self.maskable && (mask_changed || old.is_none()) {
            context.hardware.config_write(self.offset + mask_bits, 4, u32::from(self.masked));
        }
        if old.is_none_or(|old| old.host != route.host) {
            context.hardware.config_write(self.offset + 4, 4, route.host.address as u32);
            if self.wide {
                context.hardware.config_write(self.offset + 8, 4, (route.host.address >> 32) as u32);
            }
            context.hardware.config_write(self.offset + data, 2, route.host.data & 0xFFFF);
        }
        if old.is_none() {
            self.write_control(context, true);
        }
    }

    fn write_control(&self, context: &mut Context<'_>, enable: bool) {
        // One message: the multiple message enable field is zero.
        let fixed = self.control() & !CONTROL_ENABLE;
        context.hardware.config_write(self.offset + 2, 2, fixed | u32::from(enable));
    }

    /// Tries again to route what could not be routed.
    pub(super) fn retry(&mut self, context: &mut Context<'_>) {
        if self.enabled && self.route.is_none() {
            self.apply(true, context);
        }
    }

    /// Turns the hardware's MSI off and gives the route back.
    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        if self.route.take().is_some() {
            self.write_control(context, false);
            context.router.release(context.device, MSI_ENTRY);
        }
    }

    /// After a function reset: the hardware is off already.
    pub(super) fn reset(&mut self, context: &mut Context<'_>) {
        if self.route.take().is_some() {
            context.router.release(context.device, MSI_ENTRY);
        }
        self.enabled = false;
        self.masked = false;
        self.message = MsiMessage::default();
    }

    pub(super) fn save(&self) -> MsiState {
        MsiState {
            guest: self.message,
            host: self.route.map(|route| route.host).unwrap_or_default(),
            enabled: u32::from(self.enabled),
            masked: u32::from(self.masked),
            routed: u32::from(self.route.is_some()),
        }
    }

    /// Takes over without touching hardware. False if the state is impossible.
    pub(super) fn restore(&mut self, state: &MsiState) -> bool {
        if (state.enabled | state.masked | state.routed) & !1 != 0 || state.routed > state.enabled {
            return false;
        }
        self.message = state.guest;
        self.enabled = state.enabled != 0;
        self.masked = state.masked != 0;
        self.route = (state.routed != 0).then_some(Route { guest: state.guest, host: state.host });
        true
    }
}
