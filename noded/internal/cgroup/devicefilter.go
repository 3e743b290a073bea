package cgroup

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On v2 there is no devices controller: the kernel asks a BPF program of the group. Ours denies a list of character
// devices and allows everything else; it reads its context { u32 access<<16|type; u32 major; u32 minor }.

const (
	ctxType  = 0
	ctxMajor = 4
	ctxMinor = 8
	charType = 2 // BPF_DEVCG_DEV_CHAR

	progTypeCgroupDevice = 15
	attachCgroupDevice   = 6
	flagAllowMulti       = 2
)

// insn encodes one instruction: opcode, registers, jump offset, constant.
func insn(code byte, dst, src byte, off int16, imm int32) []byte {
	b := make([]byte, 8)
	b[0], b[1] = code, src<<4|dst
	binary.NativeEndian.PutUint16(b[2:], uint16(off))
	binary.NativeEndian.PutUint32(b[4:], uint32(imm))
	return b
}

const (
	opLoad32 = 0x61 // dst = *(u32 *)(src + off)
	opAndImm = 0x57
	opJneImm = 0x55
	opMovImm = 0xb7
	opExit   = 0x95
)

// deviceProgram denies the listed character devices.
func deviceProgram(deny []Device) []byte {
	var p []byte
	add := func(i []byte) { p = append(p, i...) }
	add(insn(opLoad32, 2, 1, ctxType, 0))
	add(insn(opAndImm, 2, 0, 0, 0xffff))
	add(insn(opLoad32, 3, 1, ctxMajor, 0))
	add(insn(opLoad32, 4, 1, ctxMinor, 0))
	add(insn(opMovImm, 0, 0, 0, 1))
	// Not a character device: past all tests, to the last instruction.
	add(insn(opJneImm, 2, 0, int16(4*len(deny)), charType))
	for _, d := range deny {
		add(insn(opJneImm, 3, 0, 3, int32(d.Major)))
		add(insn(opJneImm, 4, 0, 2, int32(d.Minor)))
		add(insn(opMovImm, 0, 0, 0, 0))
		add(insn(opExit, 0, 0, 0, 0))
	}
	add(insn(opExit, 0, 0, 0, 0))
	return p
}

func attachDeviceFilter(dir string, deny []Device) error {
	cg, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(cg)
	code := deviceProgram(deny)
	license := []byte("Apache-2.0\x00")
	load := struct {
		progType, count uint32
		insns, license  uint64
		logLevel, size  uint32
		log             uint64
		kernVersion     uint32
		flags           uint32
	}{progType: progTypeCgroupDevice, count: uint32(len(code) / 8),
		insns: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if e != 0 {
		return os.NewSyscallError("bpf(PROG_LOAD)", e)
	}
	defer unix.Close(int(fd))
	attach := struct{ target, prog, kind, flags uint32 }{uint32(cg), uint32(fd), attachCgroupDevice, flagAllowMulti}
	if _, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); e != 0 {
		return os.NewSyscallError("bpf(PROG_ATTACH)", e)
	}
	return nil
}
