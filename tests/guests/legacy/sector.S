# A guest that starts as a BIOS starts a boot sector: real mode, 0000:7C00. Asks the BIOS for memory, prints by it, goes to protected
# mode and back to see that both work, and then goes on saying that it runs.
    .intel_syntax noprefix
    .code16
    .set SMAP, 0x534d4150
    .set INTERVAL, 100000000

    .text
    .global _start
_start:
    jmp begin
    .org 510
    .word 0xAA55

begin:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    cld
    smsw ax
    test al, 1
    mov si, offset bad_mode
    jnz failed

# INT 12h, and INT 15h by each of its ways.
    int 0x12
    cmp ax, 640
    mov si, offset bad_conventional
    jne failed
    xor ebx, ebx
    xor bp, bp
map:
    mov eax, 0xe820
    mov ecx, 20
    mov edx, SMAP
    mov di, offset entry
    int 0x15
    mov si, offset bad_map
    jc failed
    cmp eax, SMAP
    jne failed
    inc bp
    cmp dword ptr [entry + 16], 1
    jne 1f
    mov eax, [entry + 8]
    add [usable], eax
1:  test ebx, ebx
    jnz map
    mov si, offset says_map
    call print
    movzx eax, bp
    call number
    mov si, offset says_usable
    call print
    mov eax, [usable]
    call number
    mov ax, 0xe801
    int 0x15
    mov si, offset bad_sizes
    jc failed
    push bx
    movzx eax, ax
    mov si, offset says_below
    call print
    call number
    pop ax
    movzx eax, ax
    mov si, offset says_above
    call print
    call number
    call line
# What is not there says so.
    mov ah, 0x41
    mov dl, 0x80
    int 0x13
    mov si, offset bad_disk
    jnc failed
    mov ax, 0x5300
    int 0x15
    mov si, offset bad_power
    jnc failed
    mov ah, 1
    int 0x16
    mov si, offset bad_key
    jnz failed

# To protected mode and back (SDM 3A 10.9).
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    ljmp 0x08, offset protected
    .code32
protected:
    mov ax, 0x10
    mov ds, eax
    mov dword ptr [0x100000], 0x600d600d
    ljmp 0x18, offset leaving
    .code16
leaving:
    mov ax, 0x20
    mov ds, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    ljmp 0, offset real
real:
    xor ax, ax
    mov ds, ax
    mov ax, 0xffff
    mov es, ax
    cmp dword ptr es:[0x10], 0x600d600d
    mov si, offset bad_a20
    jne failed
    mov es, word ptr [nothing]

# All vectors lead to IRET. (Bochs takes the processor away only from guests that have set IF: docs/bochs.md.)
    sti
    xor ebp, ebp
lives:
    inc ebp
    mov si, offset says_life
    call print
    mov eax, ebp
    call number
    call line
    rdtsc
    mov ebx, eax
1:  pause
    rdtsc
    sub eax, ebx
    cmp eax, INTERVAL
    jb 1b
    jmp lives

failed:
    push si
    mov si, offset says_failed
    call print
    pop si
    call print
    call line
2:  hlt
    jmp 2b

# Prints the text at SI by the BIOS.
print:
    push ax
1:  lodsb
    test al, al
    jz 2f
    mov ah, 0x0e
    int 0x10
    jmp 1b
2:  pop ax
    ret

line:
    mov ax, 0x0e0a
    int 0x10
    ret

# Prints EAX in decimal.
number:
    pushad
    mov ebx, 10
    xor cx, cx
1:  xor edx, edx
    div ebx
    push dx
    inc cx
    test eax, eax
    jnz 1b
2:  pop ax
    add al, '0'
    mov ah, 0x0e
    int 0x10
    loop 2b
    popad
    ret

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # 0x08: 32-bit code
    .quad 0x00cf93000000ffff    # 0x10: data, 4 GiB
    .quad 0x00009b000000ffff    # 0x18: 16-bit code
    .quad 0x000093000000ffff    # 0x20: data, 64 KiB
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

usable: .long 0
nothing: .word 0
entry: .skip 20
says_map: .asciz "sector: map entries "
says_usable: .asciz ", usable "
says_below: .asciz ", KiB below 16 MiB "
says_above: .asciz ", blocks above "
says_life: .asciz "sector: lives "
says_failed: .asciz "guest failed: "
bad_mode: .asciz "not in real mode"
bad_conventional: .asciz "INT 12h is not 640 KiB"
bad_map: .asciz "INT 15h E820h"
bad_sizes: .asciz "INT 15h E801h"
bad_disk: .asciz "INT 13h has a disk"
bad_power: .asciz "INT 15h has APM"
bad_key: .asciz "INT 16h has a key"
bad_a20: .asciz "A20 is off, or protected mode wrote elsewhere"
