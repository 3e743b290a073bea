package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// access is who may call a method at all; what they may do to whose jobs is in the tests of each.
type access int

const (
	everybody access = iota
	adminsOnly
)

// rules names every method of both services. A method without a rule fails the test.
var rules = map[string]access{
	"SubmitJobs": everybody, "CancelJobs": everybody, "HoldJobs": everybody, "ReleaseJobs": everybody, "RequeueJobs": everybody, "UpdateJob": everybody,
	"GetJob": everybody, "ListJobs": everybody, "WatchEvents": everybody, "ReadLog": everybody,
	"ListNodes": everybody, "GetCluster": everybody, "GetPolicy": everybody, "ListPlugins": everybody,
	"ExplainJob": everybody, "PredictStarts": everybody, "GetPredictionStats": everybody,
	"GetUsage": everybody, "ListReservations": everybody, "SetReservation": adminsOnly, "RemoveReservation": adminsOnly,
	"UpdateNode": adminsOnly, "AddServer": adminsOnly, "RemoveServer": adminsOnly, "TransferLeadership": adminsOnly, "SetPolicy": adminsOnly,
	"GetLeaderView": adminsOnly,
	"Session":       adminsOnly, "PushLog": adminsOnly,
}

// calls has one harmless call for each method that is not a stream of the client's.
func calls(ctx context.Context, c fettlev1.ControllerServiceClient) map[string]func() error {
	first := func(s interface{ RecvMsg(any) error }, err error, m any) error {
		if err != nil {
			return err
		}
		return s.RecvMsg(m)
	}
	return map[string]func() error{
		"SubmitJobs": func() error {
			_, err := c.SubmitJobs(ctx, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{}}})
			return err
		},
		"CancelJobs":  func() error { _, err := c.CancelJobs(ctx, &fettlev1.CancelJobsRequest{Select: sel(99)}); return err },
		"HoldJobs":    func() error { _, err := c.HoldJobs(ctx, &fettlev1.JobActionRequest{Select: sel(99)}); return err },
		"ReleaseJobs": func() error { _, err := c.ReleaseJobs(ctx, &fettlev1.JobActionRequest{Select: sel(99)}); return err },
		"RequeueJobs": func() error { _, err := c.RequeueJobs(ctx, &fettlev1.JobActionRequest{Select: sel(99)}); return err },
		"UpdateJob":   func() error { _, err := c.UpdateJob(ctx, &fettlev1.UpdateJobRequest{JobId: 99}); return err },
		"GetJob":      func() error { _, err := c.GetJob(ctx, &fettlev1.GetJobRequest{JobId: 99}); return err },
		"ListJobs": func() error {
			s, err := c.ListJobs(ctx, &fettlev1.ListJobsRequest{})
			return first(s, err, &fettlev1.ListJobsResponse{})
		},
		"WatchEvents": func() error {
			s, err := c.WatchEvents(ctx, &fettlev1.WatchEventsRequest{})
			return first(s, err, &fettlev1.WatchEventsResponse{})
		},
		"ReadLog": func() error {
			s, err := c.ReadLog(ctx, &fettlev1.ReadLogRequest{JobId: 99})
			return first(s, err, &fettlev1.ReadLogResponse{})
		},
		"ListNodes":    func() error { _, err := c.ListNodes(ctx, &fettlev1.ListNodesRequest{}); return err },
		"UpdateNode":   func() error { _, err := c.UpdateNode(ctx, &fettlev1.UpdateNodeRequest{Node: "n9"}); return err },
		"GetCluster":   func() error { _, err := c.GetCluster(ctx, &fettlev1.GetClusterRequest{}); return err },
		"AddServer":    func() error { _, err := c.AddServer(ctx, &fettlev1.AddServerRequest{}); return err },
		"RemoveServer": func() error { _, err := c.RemoveServer(ctx, &fettlev1.RemoveServerRequest{Server: "c9"}); return err },
		"TransferLeadership": func() error {
			_, err := c.TransferLeadership(ctx, &fettlev1.TransferLeadershipRequest{To: "c9"})
			return err
		},
		"GetPolicy":   func() error { _, err := c.GetPolicy(ctx, &fettlev1.GetPolicyRequest{}); return err },
		"SetPolicy":   func() error { _, err := c.SetPolicy(ctx, &fettlev1.SetPolicyRequest{}); return err },
		"ListPlugins": func() error { _, err := c.ListPlugins(ctx, &fettlev1.ListPluginsRequest{}); return err },
		"GetUsage":    func() error { _, err := c.GetUsage(ctx, &fettlev1.GetUsageRequest{}); return err },
		"ListReservations": func() error {
			_, err := c.ListReservations(ctx, &fettlev1.ListReservationsRequest{})
			return err
		},
		"SetReservation": func() error { _, err := c.SetReservation(ctx, &fettlev1.SetReservationRequest{}); return err },
		"RemoveReservation": func() error {
			_, err := c.RemoveReservation(ctx, &fettlev1.RemoveReservationRequest{Name: "r9"})
			return err
		},
		"ExplainJob":         func() error { _, err := c.ExplainJob(ctx, &fettlev1.ExplainJobRequest{JobId: 99}); return err },
		"PredictStarts":      func() error { _, err := c.PredictStarts(ctx, &fettlev1.PredictStartsRequest{}); return err },
		"GetPredictionStats": func() error { _, err := c.GetPredictionStats(ctx, &fettlev1.GetPredictionStatsRequest{}); return err },
		"GetLeaderView":      func() error { _, err := c.GetLeaderView(ctx, &fettlev1.GetLeaderViewRequest{}); return err },
	}
}

// nodeCalls are those of the node service.
func nodeCalls(ctx context.Context, c fettlev1.NodeServiceClient) map[string]func() error {
	return map[string]func() error{
		"Session": func() error {
			s, err := c.Session(ctx)
			if err == nil {
				_ = s.Send(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Hello{Hello: &fettlev1.Hello{ClusterId: "c", Node: "n1", BootId: "b", Inventory: inventory()}}})
				_, err = s.Recv()
			}
			return err
		},
		"PushLog": func() error {
			s, err := c.PushLog(ctx)
			if err == nil {
				_ = s.Send(&fettlev1.PushLogRequest{ReadId: 1})
				_, err = s.CloseAndRecv()
			}
			return err
		},
	}
}

func TestEveryMethodHasARule(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	byName := calls(c.ctx, c.leader.client)
	for name, call := range nodeCalls(c.ctx, c.leader.nodes) {
		byName[name] = call
	}
	for _, desc := range []grpc.ServiceDesc{fettlev1.ControllerService_ServiceDesc, fettlev1.NodeService_ServiceDesc} {
		var methods []string
		for _, m := range desc.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, s := range desc.Streams {
			methods = append(methods, s.StreamName)
		}
		for _, m := range methods {
			if _, ok := rules[m]; !ok {
				t.Errorf("%s/%s: nobody has said who may call it", desc.ServiceName, m)
			}
			if byName[m] == nil {
				t.Errorf("%s/%s: not tested", desc.ServiceName, m)
			}
		}
	}
}

// Three kinds of callers, each seen by the kernel: an admin, a user of this host, and nobody.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	user, nobody := c.connAs(c.leader, ada), c.connAs(c.leader, 65534)
	type conn struct {
		who string
		cc  *grpc.ClientConn
	}
	for _, on := range []conn{{"admin", nil}, {"user", user}, {"nobody", nobody}} {
		all, nodes := calls(c.ctx, c.leader.client), nodeCalls(c.ctx, c.leader.nodes)
		if on.cc != nil {
			all, nodes = calls(c.ctx, fettlev1.NewControllerServiceClient(on.cc)), nodeCalls(c.ctx, fettlev1.NewNodeServiceClient(on.cc))
		}
		for name, call := range nodes {
			all[name] = call
		}
		for name, call := range all {
			err := call()
			denied := status.Code(err) == codes.PermissionDenied
			want := on.who == "nobody" || (on.who == "user" && rules[name] == adminsOnly)
			if denied != want {
				t.Errorf("%s calls %s: %v, denied %v, want %v", on.who, name, err, denied, want)
			}
			if on.who == "nobody" && !strings.HasPrefix(text(err), "user: the kernel gives the caller no user of its own (uid 65534); ") {
				t.Errorf("nobody calls %s: %q", name, text(err))
			}
			if code := status.Code(err); code == codes.Unimplemented || code == codes.Internal || code == codes.Unknown {
				t.Errorf("%s calls %s: %v", on.who, name, err)
			}
		}
	}
}

// What a caller says of itself is not listened to: only the connection of a controller may name somebody else.
func TestForgedIdentities(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, tc := range []struct {
		name, header string
		client       func() fettlev1.ControllerServiceClient
		code         codes.Code
		want         string
	}{
		{"a user forwards for root", "0:0:root", func() fettlev1.ControllerServiceClient { return c.asUID(c.leader, ada) }, codes.PermissionDenied, "only controllers may forward requests"},
		{"a user forwards for itself", "1000:1000:ada", func() fettlev1.ControllerServiceClient { return c.asUID(c.leader, ada) }, codes.PermissionDenied, "only controllers may forward requests"},
		{"a user forwards through a follower", "0:0:root", func() fettlev1.ControllerServiceClient { return c.asUID(c.follower, ada) }, codes.PermissionDenied, "only controllers may forward requests"},
		{"no fields", "root", func() fettlev1.ControllerServiceClient { return c.leader.client }, codes.InvalidArgument, "malformed forwarded identity"},
		{"no name", "0:0:", func() fettlev1.ControllerServiceClient { return c.leader.client }, codes.InvalidArgument, "malformed forwarded identity"},
		{"a negative id", "-1:0:root", func() fettlev1.ControllerServiceClient { return c.leader.client }, codes.InvalidArgument, "malformed forwarded identity"},
		{"an id too large", "4294967296:0:root", func() fettlev1.ControllerServiceClient { return c.leader.client }, codes.InvalidArgument, "malformed forwarded identity"},
		{"an endless name", "7:7:" + strings.Repeat("x", 300), func() fettlev1.ControllerServiceClient { return c.leader.client }, codes.InvalidArgument, "malformed forwarded identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(c.ctx, forwardKey, tc.header)
			_, err := tc.client().SubmitJobs(ctx, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: script()}}})
			if status.Code(err) != tc.code || text(err) != tc.want {
				t.Errorf("%v, want %s %q", err, tc.code, tc.want)
			}
		})
	}
	two := metadata.AppendToOutgoingContext(c.ctx, forwardKey, "1000:1000:ada", forwardKey, "0:0:root")
	if _, err := c.leader.client.ListNodes(two, &fettlev1.ListNodesRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("two identities: %v", err)
	}
	if n := c.snap().Counts().Total(); n != 0 {
		t.Errorf("%d jobs were made", n)
	}
}

// A follower passes on who called it; the leader believes it because the follower's connection is a controller's.
func TestFollowersForwardTheCaller(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	client := c.asUID(c.follower, 54321)
	resp, err := client.SubmitJobs(c.ctx, &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: "r", Spec: script()}}})
	if err != nil || resp.GetResults()[0].GetError() != nil {
		t.Fatal(err, resp)
	}
	if !resp.GetHeader().GetIsLeader() || resp.GetHeader().GetServerName() != "c1" {
		t.Errorf("answered by %v", resp.GetHeader())
	}
	j := c.snap().Job(resp.GetResults()[0].GetJobId())
	if j.User != "54321" || j.UID != 54321 || j.GID == 0 {
		t.Errorf("the job is of %s, uid %d, gid %d", j.User, j.UID, j.GID)
	}
	// The same user may end it through any controller, nobody else may, but admins.
	bob := c.asUID(c.follower, 54322)
	if got, err := bob.CancelJobs(c.ctx, &fettlev1.CancelJobsRequest{Select: sel(j.ID)}); err != nil || got.GetResults()[0].GetError() == nil {
		t.Errorf("another user cancelled it: %v %v", got, err)
	}
	if err := (func() error { return actOne(client.HoldJobs(c.ctx, &fettlev1.JobActionRequest{Select: sel(j.ID)})) })(); err != nil {
		t.Error(err)
	}
	if err := actOne(c.follower.client.CancelJobs(c.ctx, &fettlev1.CancelJobsRequest{Select: sel(j.ID)})); err != nil {
		t.Error(err)
	}
	if j := c.snap().Job(j.ID); j.State != model.Cancelled || j.Reason != fettlev1.Reason_REASON_CANCELLED_BY_ADMIN {
		t.Errorf("job %s, %v", model.StateName(j.State), j.Reason)
	}
	// Every write, and every read that must be fresh, goes the same way.
	for name, call := range calls(c.ctx, client) {
		if slices.Contains([]string{"WatchEvents", "ListPlugins"}, name) {
			continue // each controller's own
		}
		err := call()
		if code := status.Code(err); (code == codes.PermissionDenied) != (rules[name] == adminsOnly) || code == codes.Unavailable {
			t.Errorf("%s through a follower: %v", name, err)
		}
	}
}

func TestSelectorsPickOnlyOwnJobs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	mine, theirs := c.submit(ada, script()), c.submit(bob, script())
	pick := func(ctx context.Context, s *fettlev1.JobSelector) string {
		t.Helper()
		resp, err := c.leader.client.HoldJobs(ctx, &fettlev1.JobActionRequest{Select: s})
		if err != nil {
			t.Fatal(err)
		}
		var ids []uint64
		for _, r := range resp.GetResults() {
			if r.GetError() != nil {
				t.Errorf("job %d: %s", r.GetJobId(), oneLine(r.GetError()))
			}
			ids = append(ids, r.GetJobId())
		}
		return fmt.Sprint(ids)
	}
	for _, tc := range []struct {
		name string
		ctx  context.Context
		sel  *fettlev1.JobSelector
		want []uint64
	}{
		{"own by state", c.as(ada), &fettlev1.JobSelector{States: []fettlev1.JobState{model.Pending}}, []uint64{mine}},
		{"another's by user", c.as(ada), &fettlev1.JobSelector{Users: []string{bobName}}, nil},
		{"another's by id and name", c.as(ada), &fettlev1.JobSelector{Ids: []uint64{theirs}, Names: []string{"job"}}, nil},
		{"all by an admin", c.ctx, &fettlev1.JobSelector{Names: []string{"job"}}, []uint64{mine, theirs}},
		{"by two fields", c.ctx, &fettlev1.JobSelector{Users: []string{bobName}, Names: []string{"job"}}, []uint64{theirs}},
		{"by what nothing has", c.ctx, &fettlev1.JobSelector{Names: []string{"job"}, Projects: []string{"p"}}, nil},
	} {
		if got := pick(tc.ctx, tc.sel); got != fmt.Sprint(tc.want) {
			t.Errorf("%s: %s, want %v", tc.name, got, tc.want)
		}
	}
}
