package launch

import (
	"context"
	"fmt"
	"strconv"

	"github.com/fettle-hpc/fettle/plugins/launch/config"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Adapt answers the config for a retry. After an attempt ran out of GPU memory it halves the micro-batch and accumulates
// more, so that the product, and with it the learning curve, stays as it was.
func (l *Launcher) Adapt(_ context.Context, req *pluginv1.AdaptRequest) (*pluginv1.AdaptResponse, error) {
	if req.GetClass() != fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY {
		return &pluginv1.AdaptResponse{}, nil
	}
	c, _ := config.Load(req.GetConfig(), l.method, config.Options{ExtraKeys: l.settings.Load().extraKeys})
	if c == nil {
		return &pluginv1.AdaptResponse{}, nil
	}
	return halve(c.Int("per_device_train_batch_size", trainerBatch), c.Int("gradient_accumulation_steps", trainerAccumulation)), nil
}

// halve answers a micro-batch of at most half the size whose accumulation makes the same whole; nothing when there is none.
func halve(batch, accumulation int64) *pluginv1.AdaptResponse {
	if batch < 2 || accumulation < 1 || batch > 1<<20 || accumulation > 1<<20 {
		return &pluginv1.AdaptResponse{}
	}
	whole := batch * accumulation
	next := (batch + 1) / 2
	for whole%next != 0 {
		next--
	}
	more := whole / next
	return &pluginv1.AdaptResponse{
		Set: []*fettlev1.KeyValue{
			{Key: "per_device_train_batch_size", Value: strconv.FormatInt(next, 10)},
			{Key: "gradient_accumulation_steps", Value: strconv.FormatInt(more, 10)},
		},
		Changes: []string{fmt.Sprintf("per_device_train_batch_size %d to %d and gradient_accumulation_steps %d to %d: out of memory; the global batch stays as it was", batch, next, accumulation, more)},
	}
}
