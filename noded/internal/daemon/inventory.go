package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/noded/internal/config"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/version"
)

// inventoryPatience bounds the first look at the GPUs; later ones are answered from what is known.
const inventoryPatience = 30 * time.Second

// refreshInventory looks at what the node offers now.
func (d *daemon) refreshInventory(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inventoryPatience)
	defer cancel()
	gpus, err := d.gpus.Inventory(ctx)
	if err != nil {
		d.log.Warn("GPUs are not known", "err", err)
	}
	fence, gaps := gpufence.Detect(gpufence.Config{}, gpus)
	d.fence.Store(fence)
	iso := proto.CloneOf(d.isolation)
	iso.Missing = append(slices.Clone(iso.GetMissing()), gaps...)
	if len(gaps) > 0 && iso.GetLevel() == "full" {
		iso.Level = "partial"
	}
	inv := &fettlev1.Inventory{
		Cpus: d.cfg.CPUs, MemoryMib: d.cfg.MemoryMiB, Gpus: gpus, Isolation: iso, Version: version.Version, Os: osName(),
		Methods: d.registry.Methods(), Address: d.cfg.Address, Features: d.cfg.Features, SwitchName: d.cfg.Switch,
	}
	if inv.Cpus == 0 {
		inv.Cpus = uint32(runtime.NumCPU())
	}
	if inv.MemoryMib == 0 {
		inv.MemoryMib = machineMemoryMiB()
	}
	d.inventory.Store(inv)
}

// groupName names the daemon's cgroups: two nodes of one name, of two clusters, may live on one host.
func groupName(cfg *config.Config) string {
	sum := sha256.Sum256([]byte(cfg.StateDir))
	return cfg.Name + "-" + hex.EncodeToString(sum[:4])
}

// closedPath says whether jobs of other users could reach their own directories below dir.
func closedPath(dir string) []string {
	if os.Geteuid() != 0 {
		return nil
	}
	for p := dir; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err == nil && st.Mode().Perm()&0o001 == 0 {
			return []string{fmt.Sprintf("files: %s is closed to other users; only jobs of root run here, until its mode is 0711", p)}
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
