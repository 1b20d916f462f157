extern crate std;
use super::super::super::event::{Event, PF};
use super::super::super::exit::PortAccess;
use super::super::super::state::ArchState;
use super::super::super::testing::{FakeCpu, RecorderBus, Seen};
use super::super::port;
use super::*;
use proptest::prelude::*;
use std::vec;

/// A device address that 32-bit registers reach.
const DEVICE: u64 = 0xfeb0_0000;

/// 64-bit code at 1000h, RAM up to 4000h, RBX = the device.
fn machine(code: &[u8]) -> (FakeCpu, RecorderBus) {
    let mut bus = RecorderBus::with_ram(0x4000);
    let mut cpu = FakeCpu::long_mode_flat(&mut bus);
    bus.put(0x1000, code);
    bus.mmio_value = 0x8877_6655_4433_2281;
    cpu.state.gprs[3] = DEVICE;
    (cpu, bus)
}

fn run(code: &[u8], prepare: impl FnOnce(&mut FakeCpu)) -> (FakeCpu, RecorderBus) {
    let (mut cpu, mut bus) = machine(code);
    prepare(&mut cpu);
    assert_eq!(emulate(&mut cpu, &mut bus), Ok(()), "{code:x?}");
    assert_eq!(cpu.state.rip, 0x1000 + code.len() as u64, "{code:x?}");
    (cpu, bus)
}

#[test]
fn loads() {
    for (code, register, value, seen) in [
        // mov eax, [rbx]: the upper half is cleared
        (&[0x8b, 0x03][..], 0, 0x4433_2281, Seen::MmioRead(DEVICE, 4)),
        // mov rax, [rbx+8]
        (&[0x48, 0x8b, 0x43, 0x08], 0, 0x8877_6655_4433_2281, Seen::MmioRead(DEVICE + 8, 8)),
        // mov ax, [rbx]: the rest stays
        (&[0x66, 0x8b, 0x03], 0, 0xffff_ffff_ffff_2281, Seen::MmioRead(DEVICE, 2)),
        // mov ah, [rbx]
        (&[0x8a, 0x23], 0, 0xffff_ffff_ffff_81ff, Seen::MmioRead(DEVICE, 1)),
        // movzx r9d, byte [rbx]
        (&[0x44, 0x0f, 0xb6, 0x0b], 9, 0x81, Seen::MmioRead(DEVICE, 1)),
        // movzx ecx, word [rbx]
        (&[0x0f, 0xb7, 0x0b], 1, 0x2281, Seen::MmioRead(DEVICE, 2)),
        // movsx eax, byte [rbx]
        (&[0x0f, 0xbe, 0x03], 0, 0xffff_ff81, Seen::MmioRead(DEVICE, 1)),
        // movsx rax, byte [rbx]
        (&[0x48, 0x0f, 0xbe, 0x03], 0, 0xffff_ffff_ffff_ff81, Seen::MmioRead(DEVICE, 1)),
        // movsxd rax, dword [rbx]
        (&[0x48, 0x63, 0x03], 0, 0x4433_2281, Seen::MmioRead(DEVICE, 4)),
        // mov eax, [rbx+rsi*4+10h]
        (&[0x8b, 0x44, 0xb3, 0x10], 0, 0x4433_2281, Seen::MmioRead(DEVICE + 0x1c, 4)),
        // movabs eax, [fee00020h]
        (&[0xa1, 0x20, 0, 0xe0, 0xfe, 0, 0, 0, 0], 0, 0x4433_2281, Seen::MmioRead(0xfee0_0020, 4)),
        // mov eax, [rip+7fff0000h]
        (&[0x8b, 0x05, 0, 0, 0xff, 0x7f], 0, 0x4433_2281, Seen::MmioRead(0x7fff_1006, 4)),
        // mov eax, [ebx] (67h): 32-bit address
        (&[0x67, 0x8b, 0x03], 0, 0x4433_2281, Seen::MmioRead(DEVICE, 4)),
    ] {
        let (cpu, bus) = run(code, |cpu| {
            cpu.state.gprs[0] = u64::MAX;
            cpu.state.gprs[6] = 3;
        });
        assert_eq!(cpu.state.gprs[register], value, "{code:x?}");
        assert_eq!(bus.seen, [seen], "{code:x?}");
    }
}

#[test]
fn stores() {
    for (code, seen) in [
        // mov [rbx], eax
        (&[0x89, 0x03][..], Seen::MmioWrite(DEVICE, 4, 0x5566_7788)),
        // mov [rbx], rax
        (&[0x48, 0x89, 0x03], Seen::MmioWrite(DEVICE, 8, 0x1122_3344_5566_7788)),
        // mov [rbx], ah
        (&[0x88, 0x23], Seen::MmioWrite(DEVICE, 1, 0x77)),
        // mov word [rbx+2], 1234h
        (&[0x66, 0xc7, 0x43, 0x02, 0x34, 0x12], Seen::MmioWrite(DEVICE + 2, 2, 0x1234)),
        // mov qword [rbx], -2
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], Seen::MmioWrite(DEVICE, 8, 0xffff_ffff_ffff_fffe)),
        // mov byte [rbx], 80h
        (&[0xc6, 0x03, 0x80], Seen::MmioWrite(DEVICE, 1, 0x80)),
    ] {
        let (_, bus) = run(code, |cpu| cpu.state.gprs[0] = 0x1122_3344_5566_7788);
        assert_eq!(bus.seen, [seen], "{code:x?}");
    }
}

#[test]
fn segment_bases_count() {
    // mov fs:[rbx], al; mov ds:[rbx], al
    let (_, bus) = run(&[0x64, 0x88, 0x03], |cpu| cpu.state.segments[4].base = 0x1000);
    assert_eq!(bus.seen, [Seen::MmioWrite(DEVICE + 0x1000, 1, 0)]);
    let (_, bus) = run(&[0x3e, 0x88, 0x03], |cpu| cpu.state.segments[3].base = 0x1000);
    assert_eq!(bus.seen, [Seen::MmioWrite(DEVICE, 1, 0)], "DS has no base in 64-bit mode");
}

#[test]
fn arithmetic() {
    const CF: u64 = 1;
    const PF: u64 = 4;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;
    // The device reads 8877_6655_4433_2281.
    for (code, written, flags) in [
        // or dword [rbx], 0f00h
        (&[0x81, 0x0b, 0x00, 0x0f, 0, 0][..], Some(0x4433_2f81), PF),
        // and byte [rbx], 7fh
        (&[0x80, 0x23, 0x7f], Some(0x01), 0),
        // xor word [rbx], ax
        (&[0x66, 0x31, 0x03], Some(0x2280), 0),
        // lock add [rbx], eax
        (&[0xf0, 0x01, 0x03], Some(0x4433_2282), PF),
        // sub byte [rbx], 81h
        (&[0x80, 0x2b, 0x81], Some(0), ZF | PF),
        // cmp dword [rbx], 5000_0000h: 4433_2281 - 5000_0000 = F433_2281
        (&[0x81, 0x3b, 0, 0, 0, 0x50], None, CF | SF | PF),
        // test byte [rbx], 80h
        (&[0xf6, 0x03, 0x80], None, SF),
        // test [rbx], eax
        (&[0x85, 0x03], None, 0),
    ] {
        let (cpu, bus) = run(code, |cpu| cpu.state.gprs[0] = 1);
        let width = match bus.seen[0] {
            Seen::MmioRead(DEVICE, width) => width,
            other => panic!("{other:?}"),
        };
        let mut expected = vec![Seen::MmioRead(DEVICE, width)];
        expected.extend(written.map(|value| Seen::MmioWrite(DEVICE, width, value)));
        assert_eq!(bus.seen, expected, "{code:x?}");
        assert_eq!(cpu.state.rflags, 2 | flags, "{code:x?}");
    }
    // add eax, [rbx]: the register is the target
    let (cpu, bus) = run(&[0x03, 0x03], |cpu| cpu.state.gprs[0] = 0xffff_ffff_0000_0001);
    assert_eq!(cpu.state.gprs[0], 0x4433_2282);
    assert_eq!(bus.seen, [Seen::MmioRead(DEVICE, 4)]);
}

#[test]
fn exchange() {
    let (cpu, bus) = run(&[0x87, 0x03], |cpu| cpu.state.gprs[0] = 0x1111_2222_3333_4444);
    assert_eq!(bus.seen, [Seen::MmioRead(DEVICE, 4), Seen::MmioWrite(DEVICE, 4, 0x3333_4444)]);
    assert_eq!(cpu.state.gprs[0], 0x4433_2281);
}

#[test]
fn string_moves() {
    // rep stosd to the device
    let (cpu, bus) = run(&[0xf3, 0xab], |cpu| {
        cpu.state.gprs[7] = DEVICE;
        cpu.state.gprs[1] = 2;
        cpu.state.gprs[0] = 0xaabb_ccdd;
    });
    assert_eq!(bus.seen, [Seen::MmioWrite(DEVICE, 4, 0xaabb_ccdd), Seen::MmioWrite(DEVICE + 4, 4, 0xaabb_ccdd)]);
    assert_eq!((cpu.state.gprs[7], cpu.state.gprs[1]), (DEVICE + 8, 0));
    // movsb from the device to RAM, backwards
    let (cpu, bus) = run(&[0xa4], |cpu| {
        cpu.state.gprs[6] = DEVICE;
        cpu.state.gprs[7] = 0x3000;
        cpu.state.rflags |= 1 << 10;
    });
    assert_eq!(bus.ram[0x3000], 0x81);
    assert_eq!((cpu.state.gprs[6], cpu.state.gprs[7]), (DEVICE - 1, 0x2fff));
    // rep with a count of zero does nothing
    let (_, bus) = run(&[0xf3, 0xa5], |cpu| cpu.state.gprs[1] = 0);
    assert_eq!(bus.seen, []);
}

#[test]
fn long_string_moves_take_several_exits() {
    let (mut cpu, mut bus) = machine(&[0xf3, 0xaa]);
    cpu.state.gprs[7] = DEVICE;
    cpu.state.gprs[1] = 5000;
    assert_eq!(emulate(&mut cpu, &mut bus), Ok(()));
    assert_eq!((cpu.state.rip, cpu.state.gprs[1]), (0x1000, 904), "interrupts get in between");
    assert_eq!(emulate(&mut cpu, &mut bus), Ok(()));
    assert_eq!((cpu.state.rip, cpu.state.gprs[1]), (0x1002, 0));
    assert_eq!(bus.seen.len(), 5000);
}

#[test]
fn other_modes() {
    // 16-bit real mode: mov al, [bx+si] with DS base F0000h, code at CS base 0.
    let mut bus = RecorderBus::with_ram(0x4000);
    bus.put(0x1000, &[0x8a, 0x00]);
    let mut cpu = FakeCpu::with(ArchState::startup(1));
    cpu.state.gprs[3] = 0xffff_0001;
    cpu.state.gprs[6] = 0xffff;
    cpu.state.segments[3].base = 0xf_0000;
    assert_eq!(emulate(&mut cpu, &mut bus), Ok(()));
    assert_eq!(bus.seen, [Seen::MmioRead(0xf_0000, 1)], "BX+SI wraps at 64 KiB");
    assert_eq!(cpu.state.rip, 2);
    // 32-bit without paging: mov [0fec00000h], eax
    let mut bus = RecorderBus::with_ram(0x4000);
    bus.put(0x1000, &[0xa3, 0, 0, 0xc0, 0xfe]);
    let mut cpu = FakeCpu::with(ArchState::pvh32(0x1000, 0, 0, 0));
    cpu.state.gprs[0] = 7;
    assert_eq!(emulate(&mut cpu, &mut bus), Ok(()));
    assert_eq!(bus.seen, [Seen::MmioWrite(0xfec0_0000, 4, 7)]);
}

#[test]
fn an_access_across_the_end_of_ram_is_split() {
    // mov [3ffeh], eax: two bytes in RAM, two to nobody.
    let (cpu, bus) = run(&[0x89, 0x03], |cpu| {
        cpu.state.gprs[3] = 0x3ffe;
        cpu.state.gprs[0] = 0x4433_2211;
    });
    assert_eq!(&bus.ram[0x3ffe..], &[0x11, 0x22]);
    assert_eq!(bus.seen, [Seen::MmioWrite(0x4000, 2, 0x4433)]);
    assert_eq!(cpu.state.rip, 0x1002);
}

#[test]
fn what_is_not_emulated_is_shown() {
    for code in [
        &[0x0f, 0x11, 0x03][..],   // movups [rbx], xmm0
        &[0xff, 0x33],             // push qword [rbx]
        &[0x8e, 0x1b],             // mov ds, [rbx]
        &[0x0f, 0xc1, 0x03],       // xadd [rbx], eax
        &[0xd9, 0x03],             // fld dword [rbx]
        &[0xf2, 0x0f, 0x10, 0x03], // movsd xmm0, [rbx]
        &[0x06],                   // not an instruction in 64-bit mode
    ] {
        let (mut cpu, mut bus) = machine(code);
        let before = cpu.state.clone();
        match emulate(&mut cpu, &mut bus) {
            Err(Stop::NotEmulated(bytes)) => assert_eq!(&bytes.get()[..code.len()], code),
            other => panic!("{code:x?}: {other:?}"),
        }
        assert_eq!(cpu.state, before, "{code:x?}");
        assert_eq!(bus.seen, [], "{code:x?}");
    }
}

#[test]
fn a_page_fault_comes_before_any_side_effect() {
    // or [rbx], eax where the page is not writable: the device is not read.
    let (mut cpu, mut bus) = machine(&[0x09, 0x03]);
    cpu.state.cr0 |= 1 << 16;
    let at = 0x1000 + 3 * 8; // the fourth gigabyte
    bus.table_bytes[at] &= !2;
    let event = Event::fault(PF, 3);
    assert_eq!(emulate(&mut cpu, &mut bus), Err(Stop::Event { event, cr2: Some(DEVICE) }));
    assert_eq!(bus.seen, []);
}

const OUTSB: PortAccess = PortAccess { port: 0x3f8, width: 1, write: true, string: true, rep: true, address_size: 8 };

#[test]
fn string_output_and_input() {
    let (mut cpu, mut bus) = machine(&[0xf3, 0x6e]);
    bus.put(0x3000, b"ok");
    cpu.state.gprs[6] = 0x3000;
    cpu.state.gprs[1] = 2;
    assert_eq!(port::emulate(&mut cpu, &mut bus, OUTSB), Ok(()));
    assert_eq!(bus.seen, [Seen::PortWrite(0x3f8, 1, u32::from(b'o')), Seen::PortWrite(0x3f8, 1, u32::from(b'k'))]);
    assert_eq!((cpu.state.rip, cpu.state.gprs[6], cpu.state.gprs[1]), (0x1002, 0x3002, 0));

    let (mut cpu, mut bus) = machine(&[0x66, 0x6d]); // insw
    bus.port_value = 0xbeef;
    cpu.state.gprs[7] = 0x3000;
    cpu.state.gprs[1] = 9;
    let access = PortAccess { port: 0x1f0, width: 2, write: false, rep: false, ..OUTSB };
    assert_eq!(port::emulate(&mut cpu, &mut bus, access), Ok(()));
    assert_eq!(&bus.ram[0x3000..0x3002], &[0xef, 0xbe]);
    assert_eq!((cpu.state.rip, cpu.state.gprs[7], cpu.state.gprs[1]), (0x1002, 0x3002, 9));
}

#[test]
fn string_input_faults_before_the_port_is_read() {
    let (mut cpu, mut bus) = machine(&[0x6c]); // insb
    cpu.state.gprs[7] = 1 << 39; // no page there
    let access = PortAccess { write: false, rep: false, ..OUTSB };
    let event = Event::fault(PF, 2);
    assert_eq!(port::emulate(&mut cpu, &mut bus, access), Err(Stop::Event { event, cr2: Some(1 << 39) }));
    assert_eq!(bus.seen, []);
    assert_eq!(cpu.state.rip, 0x1000);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        code in proptest::collection::vec(any::<u8>(), 15),
        gprs in any::<[u64; 16]>(),
        mode in 0..3,
        rep in 0u64..10_000,
    ) {
        let mut bus = RecorderBus::with_ram(0x4000);
        let mut cpu = match mode {
            0 => FakeCpu::long_mode_flat(&mut bus),
            1 => FakeCpu::with(ArchState::pvh32(0x1000, 0, 0, 0)),
            _ => FakeCpu::with(ArchState::startup(1)),
        };
        bus.put(0x1000, &code);
        cpu.state.gprs = gprs;
        cpu.state.gprs[1] = rep;
        let before = cpu.state.rip;
        if emulate(&mut cpu, &mut bus).is_ok() {
            prop_assert!(cpu.state.rip.wrapping_sub(before) <= 15);
        }
    }
}

#[test]
fn bits() {
    // APM3, BT: the number in an immediate stays in the operand, the one in a register does not.
    for (code, rdx, seen, carry) in [
        // bt dword [rbx], 7
        (&[0x0f, 0xba, 0x23, 0x07][..], 0, vec![Seen::MmioRead(DEVICE, 4)], true),
        // bt word [rbx], 22: bit 6 of 2281h
        (&[0x66, 0x0f, 0xba, 0x23, 22], 0, vec![Seen::MmioRead(DEVICE, 2)], false),
        // bts dword [rbx], 2
        (&[0x0f, 0xba, 0x2b, 0x02], 0, vec![Seen::MmioRead(DEVICE, 4), Seen::MmioWrite(DEVICE, 4, 0x4433_2285)], false),
        // btr [rbx], edx: bit -25 is bit 7 of the dword before
        (
            &[0x0f, 0xb3, 0x13],
            0xffff_ffe7,
            vec![Seen::MmioRead(DEVICE - 4, 4), Seen::MmioWrite(DEVICE - 4, 4, 0x4433_2201)],
            true,
        ),
        // btc [rbx], rdx: bit 129 is bit 1 of the third qword
        (
            &[0x48, 0x0f, 0xbb, 0x13],
            129,
            vec![Seen::MmioRead(DEVICE + 16, 8), Seen::MmioWrite(DEVICE + 16, 8, 0x8877_6655_4433_2283)],
            false,
        ),
    ] {
        let (cpu, bus) = run(code, |cpu| cpu.state.gprs[2] = rdx);
        assert_eq!(bus.seen, seen, "{code:x?}");
        assert_eq!(cpu.state.rflags & 1 == 1, carry, "{code:x?}");
    }
}

#[test]
fn a_single_step_traps_after_each_element() {
    // rep movsb, rep outsb
    let (mut cpu, mut bus) = machine(&[0xf3, 0xa4]);
    (cpu.state.gprs[1], cpu.state.gprs[6], cpu.state.gprs[7]) = (3, DEVICE, 0x2000);
    cpu.state.rflags |= 0x100;
    for (left, rip) in [(2, 0x1000), (1, 0x1000), (0, 0x1002)] {
        assert_eq!(emulate(&mut cpu, &mut bus), Ok(()));
        assert_eq!((cpu.state.gprs[1], cpu.state.rip), (left, rip));
    }
    let (mut cpu, mut bus) = machine(&[0xf3, 0x6e]);
    (cpu.state.gprs[1], cpu.state.gprs[6]) = (2, 0x2000);
    cpu.state.rflags |= 0x100;
    let access = PortAccess { port: 0x80, width: 1, write: true, string: true, rep: true, address_size: 8 };
    for (left, rip) in [(1, 0x1000), (0, 0x1002)] {
        assert_eq!(port::emulate(&mut cpu, &mut bus, access), Ok(()));
        assert_eq!((cpu.state.gprs[1], cpu.state.rip), (left, rip));
    }
}
