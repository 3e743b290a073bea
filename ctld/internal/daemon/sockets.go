package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// socketDir is where plugins' sockets go: short, because the kernel takes 107 bytes for a socket's path, and one for each
// data directory.
func socketDir(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	name := fmt.Sprintf("fettle-%d-%s", os.Getuid(), hex.EncodeToString(sum[:4]))
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" && len(run) < 40 {
		return filepath.Join(run, name)
	}
	return filepath.Join(os.TempDir(), name)
}
