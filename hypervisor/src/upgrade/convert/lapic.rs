//! Release 0.1, format 1: the private part of a vCPU's platform.

use handover::State;
use handover::state::lapic::{KvmClockV1, LAPIC_INIT, LAPIC_NMI, LAPIC_STARTUP, LAPIC_STARTUP_SHIFT, LapicV1};
use handover::state::page::VcpuPage;
use handover::state::vcpu::VcpuMsrsV1;

use super::{Converted, find, flag, require};
use crate::guest::clock::VcpuClockState;
use crate::guest::lapic::{LapicState, LapicTimerState};
use crate::guest::msr::MsrState;
use crate::guest::platform::VcpuPlatformState;

/// All bits of a LAPIC's events.
const EVENTS: u32 = LAPIC_NMI | LAPIC_INIT | LAPIC_STARTUP | 0xff << LAPIC_STARTUP_SHIFT;

/// Appends LAPIC, clock registrations and MSRs of a vCPU. Part of the rest, in a format without places for vCPUs.
pub fn save(state: &mut State, page: &VcpuPage) {
    state.lapics.push(page.lapic);
    state.clocks.push(page.clock);
    state.vcpu_msrs.push(page.msrs);
}

/// Fills the records of LAPIC, clock registrations and MSRs of vCPU `vcpu` of guest `guest`.
pub fn fill(page: &mut VcpuPage, guest: u64, vcpu: u32, platform: &VcpuPlatformState) {
    let VcpuPlatformState { lapic, clock, msrs } = platform;
    let [lvt_timer, lvt_thermal, lvt_performance, lvt_lint0, lvt_lint1, lvt_error] = lapic.lvt;
    page.lapic = LapicV1 {
        guest,
        base: lapic.base,
        icr: lapic.icr,
        timer_deadline: lapic.timer.deadline,
        vcpu,
        id: lapic.id,
        task_priority: lapic.task_priority,
        spurious: lapic.spurious,
        error_status: lapic.error_status,
        error_collected: lapic.errors,
        lvt_timer,
        lvt_thermal,
        lvt_performance,
        lvt_lint0,
        lvt_lint1,
        lvt_error,
        timer_armed: lapic.timer.armed,
        initial_count: lapic.timer.initial,
        divide: lapic.timer.divide,
        events: lapic.events,
        requested: lapic.irr,
        in_service: lapic.isr,
        trigger: lapic.tmr,
        reserved: [0; 16],
    };
    page.clock = KvmClockV1 {
        guest,
        system_time_msr: clock.system_time,
        wall_clock_msr: clock.wall_clock,
        vcpu,
        version: clock.version,
    };
    page.msrs = VcpuMsrsV1 {
        guest,
        microcode: msrs.microcode,
        misc_enable: msrs.misc_enable,
        hwcr: msrs.hwcr,
        mtrr_default: msrs.mtrr_default,
        mtrr_fixed: msrs.mtrr_fixed,
        mtrr_variable: msrs.mtrr_variable,
        vcpu,
        reserved: [0; 4],
    };
}

/// LAPIC, clock registrations and MSRs of a vCPU. The platform's `restore` checks the registers' bits.
///
/// # Errors
/// A record is missing, or holds what this image cannot take over.
pub fn load(state: &State, guest: u64, vcpu: u32) -> Converted<VcpuPlatformState> {
    let key = [guest, vcpu.into()];
    read(find(&state.lapics, key)?, find(&state.clocks, key)?, find(&state.vcpu_msrs, key)?)
}

/// Likewise, of records that stand in order or in a page.
///
/// # Errors
/// They hold what this image cannot take over.
pub fn read(record: &LapicV1, clock: &KvmClockV1, msrs: &VcpuMsrsV1) -> Converted<VcpuPlatformState> {
    require(record.id == record.vcpu, record, "APIC id", record.id)?;
    require(record.events & !EVENTS == 0, record, "pending events", record.events)?;
    require(record.task_priority <= 0xff, record, "task priority", record.task_priority)?;
    flag(record, "armed timer", record.timer_armed)?;
    let lapic = LapicState {
        base: record.base,
        icr: record.icr,
        timer: LapicTimerState {
            deadline: record.timer_deadline,
            armed: record.timer_armed,
            initial: record.initial_count,
            divide: record.divide,
        },
        id: record.id,
        task_priority: record.task_priority,
        spurious: record.spurious,
        error_status: record.error_status,
        errors: record.error_collected,
        lvt: [
            record.lvt_timer,
            record.lvt_thermal,
            record.lvt_performance,
            record.lvt_lint0,
            record.lvt_lint1,
            record.lvt_error,
        ],
        irr: record.requested,
        isr: record.in_service,
        tmr: record.trigger,
        events: record.events,
    };
    require(clock.version.is_multiple_of(2), clock, "version", clock.version)?;
    Ok(VcpuPlatformState {
        lapic,
        clock: VcpuClockState {
            system_time: clock.system_time_msr,
            wall_clock: clock.wall_clock_msr,
            version: clock.version,
        },
        // The guest's own business: nothing is done by them, so every value can be taken over.
        msrs: MsrState {
            microcode: msrs.microcode,
            misc_enable: msrs.misc_enable,
            hwcr: msrs.hwcr,
            mtrr_default: msrs.mtrr_default,
            mtrr_fixed: msrs.mtrr_fixed,
            mtrr_variable: msrs.mtrr_variable,
        },
    })
}
