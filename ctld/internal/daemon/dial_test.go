package daemon

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/api"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// What a joining controller was refused for decides whether it tries again, how it exits and what its admin reads.
func TestJoinErrors(t *testing.T) {
	t.Parallel()
	refusal := func(code codes.Code, d *fettlev1.ErrorDetail) error {
		st, err := status.New(code, "what the leader says").WithDetails(d)
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	for name, tt := range map[string]struct {
		err  error
		is   error
		exit int
		want string
	}{
		"an identity that was removed": {
			refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Field: api.FieldServerID, Problem: "c4.z was removed", Remedy: "start it anew"}),
			raftstore.ErrRetired, raftstore.ExitDataLost, "server ID is retired: c4.z was removed; start it anew"},
		"a name that is taken": {
			refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Field: api.FieldName, Problem: "c4 is alive", Remedy: "choose another"}),
			raftstore.ErrNameInUse, 1, "controller name is in use: c4 is alive; choose another"},
		"anything else": {
			refusal(codes.PermissionDenied, &fettlev1.ErrorDetail{Problem: "only the admin"}),
			raftstore.ErrJoinRefused, 1, "join refused by h:1: what the leader says"},
		"a follower": {refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{LeaderAddr: "h:2"}), nil, 1, "h:1: what the leader says"},
		"nobody":     {status.Error(codes.Unavailable, "connection refused"), nil, 1, "h:1: connection refused"},
	} {
		err := joinError("h:1", tt.err)
		if err == nil || err.Error() != tt.want || tt.is != nil && !errors.Is(err, tt.is) || raftstore.ExitCode(err) != tt.exit {
			t.Errorf("%s: %v, exit %d", name, err, raftstore.ExitCode(err))
		}
		if tt.is == nil && (errors.Is(err, raftstore.ErrJoinRefused) || errors.Is(err, raftstore.ErrRetired) || errors.Is(err, raftstore.ErrNameInUse)) {
			t.Errorf("%s: %v is final", name, err)
		}
	}
	if err := joinError("h:1", nil); err != nil {
		t.Error(err)
	}
}
