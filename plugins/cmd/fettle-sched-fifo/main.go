// Command fettle-sched-fifo orders the queue by the time at which jobs became eligible, and by nothing else. It is the
// smallest scheduling policy that there can be, and the example to begin one's own with.
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/sdk"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/version"
)

func main() {
	sdk.ServeScheduling(sdk.Info{Name: "sched-fifo", Version: strings.TrimPrefix(version.Version, "v")}, fifo{})
}

// fifo scores each job by itself, so it need not remember any: whether a request is a snapshot or a delta is all the same to it.
type fifo struct{}

// Configure takes no settings: first come, first served has nothing to weigh.
func (fifo) Configure(_ context.Context, settings map[string]string) error {
	if len(settings) > 0 {
		return fmt.Errorf("setting %q: unknown; this policy has none", slices.Sorted(maps.Keys(settings))[0])
	}
	return nil
}

// Score answers when each job became eligible.
func (fifo) Score(_ context.Context, req *pluginv1.ScoreRequest) (*pluginv1.ScoreResponse, error) {
	return &pluginv1.ScoreResponse{Score: req.GetEligibleMs()}, nil
}
