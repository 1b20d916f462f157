# A guest that starts as multiboot 1 has it (Multiboot Specification 0.6.96, 3.2 and 3.3): checks what it is given, says so on COM1,
# and then goes on saying that it runs. Linked as an ELF32, or flat with address fields (-DFLAT).
    .intel_syntax noprefix
    .set MAGIC, 0x1BADB002
    .set COM1, 0x3f8
# Between two signs of life, in ticks of the TSC (an emulated one has some 10^9 a second).
    .set INTERVAL, 100000000

    .text
    .code32
begin:
    .balign 4
header:
#ifdef FLAT
    .set FLAGS, 0x10003
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)
    .long header, begin, loaded_end, bss_end, _start
#else
    .set FLAGS, 0x3
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)
#endif

    .global _start
_start:
    mov esp, offset stack_end
    mov ebp, ebx
    cmp eax, 0x2BADB002
    mov esi, offset bad_magic
    jne failed
    mov eax, cr0
    and eax, 0x80000001
    cmp eax, 1
    mov esi, offset bad_mode
    jne failed
    pushfd
    pop eax
    test eax, 0x20200
    mov esi, offset bad_flags
    jnz failed
# What is not in the file has to be zero.
    cmp dword ptr [zero], 0
    mov esi, offset bad_bss
    jne failed
    mov eax, [ebp]
    and eax, 0x4d
    cmp eax, 0x4d
    mov esi, offset bad_information
    jne failed

    mov esi, offset says_command_line
    call print
    mov esi, [ebp + 16]
    call print
    call line
# Each module: its text, its size, its first 12 bytes.
    mov edi, [ebp + 24]
    mov ecx, [ebp + 20]
modules:
    jecxz modules_done
    push ecx
    test dword ptr [edi], 0xfff
    mov esi, offset bad_module
    jnz failed
    mov esi, offset says_module
    call print
    mov esi, [edi + 8]
    call print
    mov esi, offset says_bytes
    call print
    mov eax, [edi + 4]
    sub eax, [edi]
    call number
    mov esi, offset says_begin
    call print
    mov esi, [edi]
    mov ecx, 12
1:  lodsb
    call send
    loop 1b
    call line
    add edi, 16
    pop ecx
    dec ecx
    jmp modules
modules_done:
# The memory map: usable bytes below 4 GiB, and the number of entries.
    mov edi, [ebp + 48]
    mov edx, [ebp + 44]
    add edx, edi
    xor ebx, ebx
    xor ecx, ecx
map:
    cmp edi, edx
    jae map_done
    inc ecx
    cmp dword ptr [edi + 20], 1
    jne 1f
    cmp dword ptr [edi + 8], 0
    jne 1f
    add ebx, [edi + 12]
1:  mov eax, [edi]
    lea edi, [edi + eax + 4]
    jmp map
map_done:
    mov esi, offset says_map
    call print
    mov eax, ecx
    call number
    mov esi, offset says_usable
    call print
    mov eax, ebx
    call number
    mov esi, offset says_upper
    call print
    mov eax, [ebp + 8]
    call number
    call line
# The tables are where a guest without a pointer looks for them.
    mov esi, 0xe0000
    cmp dword ptr [esi], 0x20445352
    mov esi, offset bad_tables
    jne failed

    xor edi, edi
lives:
    inc edi
    mov esi, offset says_life
    call print
    mov eax, edi
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
    push esi
    mov esi, offset says_failed
    call print
    pop esi
    call print
    call line
2:  hlt
    jmp 2b

# Prints the text at ESI.
print:
    lodsb
    test al, al
    jz 1f
    call send
    jmp print
1:  ret

line:
    mov al, 10
# Prints AL.
send:
    push edx
    push eax
    mov dx, COM1 + 5
1:  in al, dx
    test al, 0x20
    jz 1b
    pop eax
    mov dx, COM1
    out dx, al
    pop edx
    ret

# Prints EAX in decimal.
number:
    pushad
    mov ebx, 10
    xor ecx, ecx
1:  xor edx, edx
    div ebx
    push edx
    inc ecx
    test eax, eax
    jnz 1b
2:  pop eax
    add al, '0'
    call send
    loop 2b
    popad
    ret

    .section .data
says_command_line: .asciz "multiboot: command line "
says_module: .asciz "multiboot: module "
says_bytes: .asciz ", bytes "
says_begin: .asciz ", begins "
says_map: .asciz "multiboot: map entries "
says_usable: .asciz ", usable "
says_upper: .asciz ", upper KiB "
says_life: .asciz "multiboot: lives "
says_failed: .asciz "guest failed: "
bad_magic: .asciz "EAX is not the loader's magic"
bad_mode: .asciz "CR0 is not that of protected mode without paging"
bad_flags: .asciz "VM or IF is set"
bad_bss: .asciz "what is not in the file is not zero"
bad_information: .asciz "the information lacks memory, command line, modules or map"
bad_module: .asciz "a module does not begin at a page"
bad_tables: .asciz "there are no ACPI tables at E0000h"
loaded_end:

    .section .bss
    .skip 0x3000
stack_end:
zero: .skip 16
bss_end:
