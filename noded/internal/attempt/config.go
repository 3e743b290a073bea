package attempt

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/gpufence"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Launcher knows one training method. The plugins' host implements it.
type Launcher interface {
	Plan(ctx context.Context, req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error)
	Progress(ctx context.Context, req *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error)
	Classify(ctx context.Context, req *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error)
}

// Config of a Manager. Dir, LeasePath, ShimPath, Users, Groups, Fence and Inventory are needed.
type Config struct {
	// Dir is the daemon's state directory. It must be the daemon's own, and others may not write to it.
	Dir string
	// LeasePath is the node's lease file.
	LeasePath string
	// ShimPath is the fettle-shim binary; ShimLog takes what shims say on standard error, Dir/shim.log by default.
	ShimPath string
	ShimLog  string
	Users    *account.Users
	Groups   *cgroup.Groups
	Fence    func() *gpufence.Fence
	// Inventory is what the node offers now.
	Inventory func() *fettlev1.Inventory
	// Launcher finds the launcher of a method; nil when there are none.
	Launcher func(method string) (Launcher, error)
	// Engine is the trainer's command for launchers; empty leaves it to them.
	Engine string
	// UID is the daemon's own; uid 0 may run jobs as any user. NoRoot refuses jobs of uid 0 all the same.
	UID    uint32
	NoRoot bool
	Log    *slog.Logger
	Now    func() time.Time
	// Workers is how many goroutines do the file work, Planners how many attempts wait for a launcher at once; 4 and 32 by
	// default.
	Workers, Planners int
	// Launching is how many attempts of scripts may be between hand-over and their first process at once; 4, or two a
	// processor, by default. More would only wait for each other.
	Launching int
}

func (c *Config) withDefaults() error {
	if c.Dir == "" || c.ShimPath == "" || c.Users == nil || c.Groups == nil || c.Fence == nil || c.Inventory == nil {
		return errors.New("attempt: config lacks a needed field")
	}
	if c.ShimLog == "" {
		c.ShimLog = filepath.Join(c.Dir, "shim.log")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Workers == 0 {
		c.Workers = 4
	}
	if c.Launching == 0 {
		c.Launching = max(4, 2*runtime.NumCPU())
	}
	if c.Planners == 0 {
		c.Planners = 32
	}
	return nil
}
