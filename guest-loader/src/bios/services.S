# What is left of a PC's BIOS for kernels that are entered in real mode: the calls by which they learn of memory,
# print a message, and find out that nothing else is there. GNU as, `services.bin` is made of it by
#     as --32 -o services.o services.S && ld -m elf_i386 --oformat=binary -Ttext=0 -o services.bin services.o
# and a test sees to it that it was. It lies at F000:0000; the loader writes the memory map behind it.
    .intel_syntax noprefix
    .code16

    .set SMAP, 0x534d4150
    .set COM1, 0x3f8
    .set CONVENTIONAL_KIB, 640
    .set ENTRY_BYTES, 20

# Which vectors lead where; all others lead to `ignore`.
    .word (vectors_end - vectors) / 4
    .word ignore
vectors:
    .word 0x10, video
    .word 0x11, equipment
    .word 0x12, conventional
    .word 0x13, fail_ah1
    .word 0x15, system
    .word 0x16, keyboard
    .word 0x1a, fail
vectors_end:

# INT 10h: AH=0Eh prints AL on the console; there is no screen.
video:
    cmp ah, 0x0e
    jne ignore
    push dx
    push ax
    mov dx, COM1 + 5
1:  in al, dx
    test al, 0x20
    jz 1b
    pop ax
    mov dx, COM1
    out dx, al
    pop dx
ignore:
    iret

# INT 11h: no devices.
equipment:
    xor ax, ax
    iret

# INT 12h: KiB of memory from 0 on.
conventional:
    mov ax, CONVENTIONAL_KIB
    iret

# INT 16h: no key was pressed; none is waited for.
keyboard:
    xor ax, ax
    push bp
    mov bp, sp
    or byte ptr [bp + 6], 0x40
    pop bp
    iret

# INT 15h: memory.
system:
    cmp ax, 0xe820
    je map
    cmp ax, 0xe801
    je sizes
    cmp ah, 0x88
    je extended
    mov ah, 0x86
    jmp fail

# E820h: entry EBX of the map to ES:DI, EBX = the next or 0.
map:
    cmp edx, SMAP
    jne fail
    cmp ecx, ENTRY_BYTES
    jb fail
    movzx ebx, bx
    cmp bx, cs:[entries]
    jae fail
    push si
    push di
    push ds
    push cs
    pop ds
    cld
    imul si, bx, ENTRY_BYTES
    add si, offset table
    mov cx, ENTRY_BYTES
    rep movsb
    pop ds
    pop di
    pop si
    inc bx
    cmp bx, cs:[entries]
    jb 1f
    xor ebx, ebx
1:  mov eax, SMAP
    mov ecx, ENTRY_BYTES
    jmp ok

# E801h: KiB between 1 and 16 MiB, 64 KiB blocks above.
sizes:
    mov ax, cs:[below_16m]
    mov bx, cs:[above_16m]
    mov cx, ax
    mov dx, bx
    jmp ok

# 88h: KiB above 1 MiB, as far as E801h counts them so.
extended:
    mov ax, cs:[below_16m]
    jmp ok

fail_ah1:
    mov ah, 1
# The carry flag is that of the caller's flags, which IRET brings back.
fail:
    push bp
    mov bp, sp
    or byte ptr [bp + 6], 1
    pop bp
    iret

ok:
    push bp
    mov bp, sp
    and byte ptr [bp + 6], 0xfe
    pop bp
    iret

    .balign 16, 0
# Written by the loader.
entries:   .word 0
below_16m: .word 0
above_16m: .word 0
    .balign 16, 0
table:
