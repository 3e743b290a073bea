package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// TestWeightsChangeTheOrderLive changes what counts in the order while jobs wait, and has another leader go by it.
func TestWeightsChangeTheOrderLive(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{Nodes: 1, CPUs: 8, GRES: "gpu:h100:1"})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	g := c.gate()
	c.started(ctx, t, c.job(ctx, t, g.wait(), "--gpus", "1"))
	patient := c.job(ctx, t, "true", "--gpus", "1", "--priority", "6", "-t", "10")
	urgent := c.job(ctx, t, "true", "--gpus", "1", "--priority", "1", "-t", "10")
	long := c.job(ctx, t, "true", "--gpus", "1", "--priority", "1", "-t", "4-0")
	order := func(what string, want ...uint64) {
		t.Helper()
		err := Poll(ctx, "wait for the order "+what, func() error {
			d, err := c.Leader(ctx)
			if err != nil {
				return err
			}
			at := map[uint32]uint64{}
			for _, id := range want {
				resp, err := c.Client(d.Addr).ExplainJob(ctx, &fettlev1.ExplainJobRequest{JobId: id, Order: true})
				if err != nil {
					return err
				}
				at[resp.GetOrder().GetPosition()] = id
			}
			if got := []uint64{at[1], at[2], at[3]}; !slices.Equal(got, want) {
				return fmt.Errorf("it is %v, want %v", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	order("by the default weights", urgent, patient, long)
	const policy = "[[partition]]\nname = \"main\"\ndefault = true\n[scheduling]\n"
	c.apply(ctx, t, policy+"size_weight = \"0s\"\n")
	order("without a weight for the size", urgent, long, patient)
	c.apply(ctx, t, policy+"size_weight = \"0s\"\npriority_step = \"0s\"\n")
	order("by age alone", patient, urgent, long)
	if shown := c.run(ctx, t, "fctl", "priority", fmt.Sprint(patient)); !strings.Contains(shown, fmt.Sprint(patient)) {
		t.Errorf("fctl priority shows %q", shown)
	}
	c.refused(ctx, t, "fctl", []string{"apply", "--yes", "-f", writeFile(t, policy+"size_wait = \"1h\"\n")}, "size_wait")
	d, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client(d.Addr).TransferLeadership(ctx, &fettlev1.TransferLeadershipRequest{}); err != nil {
		t.Fatal(err)
	}
	order("under another leader", patient, urgent, long)
	g.open(t)
	var last int64
	for _, id := range []uint64{patient, urgent, long} {
		j := c.completed(ctx, t, id)
		if newestOf(j).GetDispatchMs() < last {
			t.Errorf("job %d started before the one that was ahead of it", id)
		}
		last = newestOf(j).GetDispatchMs()
	}
}
