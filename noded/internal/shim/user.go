package shim

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/handoff"
)

const capDacOverride = 1 << unix.CAP_DAC_OVERRIDE

// becomeUser gives the calling thread, and it alone, the credentials of the job's user, for good, and then looks whether
// it has them. With keepOverride the thread keeps CAP_DAC_OVERRIDE in its permitted set, unused until the fork.
//
// The raw system calls are meant: the wrappers of the Go runtime change every thread of the process.
func becomeUser(o *handoff.Order, keepOverride bool) error {
	if !o.SwitchUser {
		if uid := unix.Geteuid(); uint32(uid) != o.UID {
			return errors.New("the shim runs as uid " + strconv.Itoa(uid) + " and the job is of uid " + strconv.FormatUint(uint64(o.UID), 10))
		}
		return nil
	}
	keepOverride = keepOverride && o.UID != 0
	if keepOverride {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", err)
		}
	}
	groups := o.Groups
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0); e != 0 {
		return os.NewSyscallError("setgroups", e)
	}
	gid, uid := uintptr(o.GID), uintptr(o.UID)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return os.NewSyscallError("setresgid", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return os.NewSyscallError("setresuid", e)
	}
	kept := uint32(0)
	if keepOverride {
		kept = capDacOverride
		if err := setCaps(kept, 0); err != nil {
			return err
		}
	}
	return verifyUser(o, kept)
}

// verifyUser reads back what becomeUser was to achieve. Nothing has run as the user yet, so a difference costs nothing
// but the attempt.
func verifyUser(o *handoff.Order, permitted uint32) error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	uid, gid := int(o.UID), int(o.GID)
	if ruid != uid || euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid {
		return errors.New("the kernel did not take the job's user and group")
	}
	have, err := unix.Getgroups()
	if err != nil {
		return os.NewSyscallError("getgroups", err)
	}
	want := make([]int, len(o.Groups))
	for i, g := range o.Groups {
		want[i] = int(g)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(slices.Compact(have), slices.Compact(want)) {
		return errors.New("the kernel did not take the job's groups")
	}
	if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || nnp != 1 {
		return errors.New("the kernel did not take no_new_privs")
	}
	if o.UID == 0 {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if data[0].Permitted != permitted || data[1].Permitted != 0 ||
		data[0].Effective|data[1].Effective|data[0].Inheritable|data[1].Inheritable != 0 {
		return errors.New("the job's user would have capabilities")
	}
	return nil
}

// setCaps replaces the calling thread's capability sets; nothing is inheritable.
func setCaps(permitted, effective uint32) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Permitted: permitted, Effective: effective}}
	return os.NewSyscallError("capset", unix.Capset(&hdr, &data[0]))
}
