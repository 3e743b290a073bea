package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// openExecutable opens the plugin's file and answers its SHA-256; the caller closes the file. A file that anybody may write
// is refused, and so is one that does not have the configured checksum.
func openExecutable(cfg *Config) (*os.File, string, error) {
	file, err := os.Open(cfg.Path)
	if err != nil {
		return nil, "", err
	}
	sum, err := inspect(file, cfg.Checksum)
	if err != nil {
		return nil, sum, errors.Join(fmt.Errorf("%s: %w", cfg.Path, err), file.Close())
	}
	return file, sum, nil
}

func inspect(file *os.File, want string) (string, error) {
	st, err := file.Stat()
	switch {
	case err != nil:
		return "", err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return "", errors.New("is not an executable file")
	case st.Mode()&0o002 != 0:
		return "", fmt.Errorf("may be written by anybody (mode %04o); chmod o-w it", st.Mode().Perm())
	}
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if want != "" && !strings.EqualFold(sum, want) {
		return sum, fmt.Errorf("has checksum %s, the configuration says %s; if the new file is meant, put its checksum there", sum, want)
	}
	return sum, nil
}

// launches numbers the socket directories of this process.
var launches atomic.Uint64

// makeSocketDir makes a fresh directory for one run, and the directory for all of them when it is not there.
func makeSocketDir(parent string) (string, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	st, err := os.Lstat(parent)
	if err != nil {
		return "", err
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("socket_dir: %q has mode %v; it must be a directory that only its owner may enter, chmod 700 it", parent, st.Mode())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return "", fmt.Errorf("socket_dir: %q belongs to user %d, not to this process's user %d", parent, sys.Uid, os.Geteuid())
	}
	dir := filepath.Join(parent, fmt.Sprintf("%d.%d", os.Getpid(), launches.Add(1)))
	// What is there by that name is left over from a process that had our number.
	return dir, errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
}

// sweepSocketDirs removes what hosts that were killed have left.
func sweepSocketDirs(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		owner, number, ok := strings.Cut(e.Name(), ".")
		if !ok || !e.IsDir() {
			continue
		}
		pid, err := strconv.Atoi(owner)
		if _, err2 := strconv.ParseUint(number, 10, 64); err != nil || err2 != nil || pid <= 0 {
			continue
		}
		if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.RemoveAll(filepath.Join(parent, e.Name()))
		}
	}
}
