package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// boottimeMS is CLOCK_BOOTTIME, which goes on while the machine sleeps.
func boottimeMS() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // Linux has had it since 2.6.39.
	}
	return ts.Nano() / 1e6
}

func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

func machineMemoryMiB() int64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0
	}
	return int64(uint64(si.Totalram) * uint64(si.Unit) >> 20)
}

func osName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// isolation sums up what the host can enforce.
func isolation(cgroupVersion string, missing []string) *fettlev1.Isolation {
	iso := &fettlev1.Isolation{Level: "full", Cgroup: cgroupVersion, RunsAsRoot: os.Geteuid() == 0, Missing: missing}
	if !iso.GetRunsAsRoot() {
		iso.Missing = append(iso.Missing, "users: the node daemon does not run as root; jobs run as its own user, without a file system or device view of their own")
	}
	switch {
	case !iso.GetRunsAsRoot() || cgroupVersion == "none":
		iso.Level = "none"
	case len(iso.GetMissing()) > 0:
		iso.Level = "partial"
	}
	return iso
}

func firstOf(lines []string) string {
	if len(lines) == 0 {
		return "nothing is known to be missing"
	}
	return lines[0]
}

// beside finds a helper in the executable's directory or in ../lib/fettle.
func beside(name string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	dir := filepath.Dir(exe)
	for _, p := range []string{filepath.Join(dir, name), filepath.Join(filepath.Dir(dir), "lib", "fettle", name)} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside %s nor in ../lib/fettle; install it there, or name it in the configuration", name, filepath.Base(exe))
}

// pluginDir is where the launchers are: beside the executable, or in ../lib/fettle.
func pluginDir() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find plugins: %w", err)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", fmt.Errorf("find plugins: %w", err)
	}
	dir := filepath.Dir(exe)
	if found, _ := filepath.Glob(filepath.Join(dir, "fettle-launch-*")); len(found) > 0 {
		return dir, nil
	}
	return filepath.Join(filepath.Dir(dir), "lib", "fettle"), nil
}

// socketDir is where launchers' sockets go: short, because the kernel takes 107 bytes for a socket's path.
func socketDir(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	name := fmt.Sprintf("fettle-%d-%s", os.Getuid(), hex.EncodeToString(sum[:4]))
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" && len(run) < 40 {
		return filepath.Join(run, name)
	}
	return filepath.Join(os.TempDir(), name)
}
