// Command fettle-preempt-lostwork is the shipped preemption policy: plugins/preempt behind the plugin protocol.
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/preempt"
	"github.com/fettle-hpc/fettle/plugins/sdk"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/version"
)

func main() {
	sdk.ServePreemption(sdk.Info{Name: "preempt-" + preempt.Name, Version: strings.TrimPrefix(version.Version, "v")}, lostwork{})
}

// lostwork keeps nothing between calls.
type lostwork struct{}

// Configure takes no settings: who may be stopped is the cluster policy's to say, and who is follows from the cost.
func (lostwork) Configure(_ context.Context, settings map[string]string) error {
	if len(settings) > 0 {
		return fmt.Errorf("setting %q: unknown; this policy has none", slices.Sorted(maps.Keys(settings))[0])
	}
	return nil
}

// SelectVictims answers the victims that lose least.
func (lostwork) SelectVictims(_ context.Context, req *pluginv1.SelectVictimsRequest) (*pluginv1.SelectVictimsResponse, error) {
	return preempt.AnswerToProto(preempt.Select(preempt.FromProto(req))), nil
}
