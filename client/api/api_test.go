package api_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/internal/fakectl"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadAddr is an address on which nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func client(t *testing.T, cfg api.Config) *api.Client {
	t.Helper()
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Millisecond
	}
	c, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func submit(ctx context.Context, c *api.Client, key string) (*fettlev1.SubmitResult, error) {
	req := &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: key, Spec: &fettlev1.JobSpec{Name: "x", Script: []byte("#!/bin/sh\n")}}}}
	r, err := api.Do(ctx, c, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.SubmitJobsResponse, error) {
		return s.SubmitJobs(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return r.GetResults()[0], nil
}

func unavailable(msg string) error { return status.Error(codes.Unavailable, msg) }

func TestUnknownOutcomeIsRepeatedWithTheSameKey(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.Aborted, codes.Canceled} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			s := fakectl.Start(t)
			s.Fail("SubmitJobs", fakectl.Fault{After: true, Err: status.Error(code, "lost")}, fakectl.Fault{After: true, Err: status.Error(code, "lost")})
			res, err := submit(t.Context(), client(t, api.Config{Controllers: []string{s.Addr()}}), "k1")
			if err != nil {
				t.Fatal(err)
			}
			if !res.GetDuplicate() || s.Job(2) != nil {
				t.Errorf("got %v and a second job %v, want the first job again", res, s.Job(2))
			}
			for _, r := range s.Submits() {
				if id := r.GetJobs()[0].GetRequestId(); id != "k1" {
					t.Errorf("request id %q was sent, want k1", id)
				}
			}
		})
	}
}

func TestNextControllerWhenOneIsDead(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	c := client(t, api.Config{Controllers: []string{deadAddr(t), s.Addr()}})
	for range 2 {
		if _, err := submit(t.Context(), c, api.NewRequestID()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Calls("SubmitJobs"); got != 2 {
		t.Errorf("the living controller was called %d times, want 2", got)
	}
}

func TestNextControllerWhenOneHangs(t *testing.T) {
	t.Parallel()
	a, b := fakectl.Start(t), fakectl.Start(t)
	a.Fail("SubmitJobs", fakectl.Fault{Hang: true})
	c := client(t, api.Config{Controllers: []string{a.Addr(), b.Addr()}, TryTimeout: 50 * time.Millisecond})
	if _, err := submit(t.Context(), c, "k"); err != nil {
		t.Fatal(err)
	}
	if b.Job(1) == nil {
		t.Error("the second controller was not asked")
	}
}

func TestLeaderHintIsFollowedBeyondTheList(t *testing.T) {
	t.Parallel()
	follower, leader := fakectl.Start(t), fakectl.Start(t)
	hint := fakectl.Refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Problem: "not the leader", LeaderAddr: leader.Addr()})
	follower.Fail("SubmitJobs", fakectl.Fault{Err: hint})
	if _, err := submit(t.Context(), client(t, api.Config{Controllers: []string{follower.Addr()}}), "k"); err != nil {
		t.Fatal(err)
	}
	if leader.Job(1) == nil || follower.Calls("SubmitJobs") != 1 {
		t.Errorf("leader has %v, follower was called %d times", leader.Job(1), follower.Calls("SubmitJobs"))
	}
}

func TestLeaderHintToAnotherMachineIsNotFollowed(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Fail("SubmitJobs", fakectl.Fault{Err: fakectl.Refusal(codes.FailedPrecondition, &fettlev1.ErrorDetail{Problem: "not the leader", LeaderAddr: "192.0.2.1:7100"})})
	dialled := make(chan string, 10)
	c := client(t, api.Config{Controllers: []string{s.Addr()}, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		dialled <- addr
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}})
	if _, err := submit(t.Context(), c, "k"); err != nil {
		t.Fatal(err)
	}
	close(dialled)
	for addr := range dialled {
		if addr != s.Addr() {
			t.Errorf("dialled %s", addr)
		}
	}
}

func TestRefusalIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	d := &fettlev1.ErrorDetail{Field: "gpus", Problem: "12 is too many", Remedy: "ask for 8"}
	s.Fail("SubmitJobs", fakectl.Fault{Err: fakectl.Refusal(codes.InvalidArgument, d)})
	_, err := submit(t.Context(), client(t, api.Config{Controllers: []string{s.Addr()}}), "k")
	var e *api.Error
	if !errors.As(err, &e) || e.Error() != "gpus: 12 is too many; ask for 8" || e.Code != codes.InvalidArgument || e.Unknown {
		t.Errorf("got %#v", err)
	}
	if n := s.Calls("SubmitJobs"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestGivesUpAndSaysWhy(t *testing.T) {
	t.Parallel()
	dead := deadAddr(t)
	s := fakectl.Start(t)
	leaderless := fakectl.Refusal(codes.Unavailable, &fettlev1.ErrorDetail{Problem: "there is no leader just now", Remedy: "try again in a moment"})
	for range 1000 {
		s.Fail("SubmitJobs", fakectl.Fault{Err: leaderless})
	}
	for name, tc := range map[string]struct {
		addrs   []string
		want    string
		unknown bool
	}{
		"one":        {[]string{dead}, "controller " + dead + " does not answer (connection refused); start the cluster, or name other controllers with -M or FETTLE_CONTROLLERS", false},
		"several":    {[]string{dead, "127.0.0.1:1"}, "none of the controllers " + dead + ", 127.0.0.1:1 answers (connection refused); start the cluster, or name other controllers with -M or FETTLE_CONTROLLERS", false},
		"leaderless": {[]string{s.Addr()}, "there is no leader just now; try again in a moment", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := submit(t.Context(), client(t, api.Config{Controllers: tc.addrs, Timeout: 3 * time.Second}), "k")
			var e *api.Error
			if !errors.As(err, &e) || e.Error() != tc.want || e.Unknown != tc.unknown || e.Code != codes.Unavailable {
				t.Errorf("got  %#v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestAClusterThatIsDownIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	c := client(t, api.Config{Controllers: []string{deadAddr(t), deadAddr(t)}, Timeout: time.Hour, DownTimeout: 20 * time.Millisecond})
	if _, err := submit(t.Context(), c, "k"); !api.IsCode(err, codes.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestOnceIsSentOnce(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Fail("TransferLeadership", fakectl.Fault{After: true, Err: unavailable("lost")})
	c := client(t, api.Config{Controllers: []string{deadAddr(t), s.Addr()}})
	_, err := api.Do(t.Context(), c, api.Once, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.TransferLeadershipResponse, error) {
		return s.TransferLeadership(ctx, &fettlev1.TransferLeadershipRequest{})
	})
	var e *api.Error
	if !errors.As(err, &e) || !e.Unknown {
		t.Errorf("got %v, want an unknown outcome", err)
	}
	if n := s.Calls("TransferLeadership"); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Fail("SubmitJobs", fakectl.Fault{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := submit(ctx, client(t, api.Config{Controllers: []string{s.Addr()}}), "k")
	var e *api.Error
	if !errors.As(err, &e) || !e.Unknown || !errors.Is(err, context.Canceled) {
		t.Errorf("got %#v", err)
	}
}

func TestPreferLeader(t *testing.T) {
	t.Parallel()
	follower, leader := fakectl.Start(t), fakectl.Start(t)
	follower.SetHeader(func(h *fettlev1.Header) { h.IsLeader, h.LeaderAddr = false, leader.Addr() })
	c := client(t, api.Config{Controllers: []string{deadAddr(t), follower.Addr()}})
	c.PreferLeader(t.Context())
	if _, err := submit(t.Context(), c, "k"); err != nil {
		t.Fatal(err)
	}
	if leader.Job(1) == nil {
		t.Error("the leader was not asked first")
	}
	leader.Stop()
	if _, err := submit(t.Context(), c, "k"); err != nil {
		t.Errorf("without the leader: %v", err)
	}
}

func TestListGoesOnAfterALostConnection(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.PageSize = 10
	for id := range uint64(95) {
		s.Put(&fettlev1.Job{Id: id + 1, State: model.Pending})
	}
	s.Fail("ListPage", fakectl.Fault{Err: unavailable("x")})
	for _, limit := range []uint32{0, 7, 10, 25} {
		c := client(t, api.Config{Controllers: []string{s.Addr()}})
		var got []uint64
		err := c.ListJobs(t.Context(), &fettlev1.ListJobsRequest{Limit: limit}, func(h *fettlev1.Header, jobs []*fettlev1.Job) error {
			if h.GetServerName() != "c1" {
				t.Errorf("header %v", h)
			}
			for _, j := range jobs {
				got = append(got, j.GetId())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if limit == 0 {
			if len(got) != 95 {
				t.Errorf("%d jobs, want 95", len(got))
			}
		}
		for i, id := range got {
			if id != uint64(i+1) {
				t.Fatalf("limit %d: row %d is job %d", limit, i, id)
			}
		}
	}
}

func TestListEndsWhenThePageDoes(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 1, State: model.Pending})
	boom := errors.New("boom")
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	if err := c.ListJobs(t.Context(), &fettlev1.ListJobsRequest{}, func(*fettlev1.Header, []*fettlev1.Job) error { return boom }); err != boom {
		t.Errorf("got %v", err)
	}
}

func TestWatchJobSeesTheEndThroughLostStreams(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 7, State: model.Pending})
	s.Fail("WatchEvents", fakectl.Fault{Err: unavailable("x")}, fakectl.Fault{Err: unavailable("x")})
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	var seen []string
	step := map[fettlev1.JobState]fettlev1.JobState{model.Pending: model.Running, model.Running: model.Completed}
	job, err := c.WatchJob(t.Context(), api.Watch{Job: api.JobRef{ID: 7}}, func(j *fettlev1.Job) bool {
		seen = append(seen, model.Code(j.GetState()))
		if next, ok := step[j.GetState()]; ok {
			s.Change(7, func(j *fettlev1.Job) { j.State = next })
		}
		return model.Terminal(j.GetState())
	})
	if err != nil || job.GetState() != model.Completed {
		t.Fatalf("got %v, %v", job, err)
	}
	if got := strings.Join(seen, " "); got != "PD R CD" {
		t.Errorf("saw %s", got)
	}
}

func TestWatchJobSurvivesTheControllers(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 7, State: model.Running})
	notices := make(chan string, 10)
	c := client(t, api.Config{Controllers: []string{s.Addr()}, Timeout: 50 * time.Millisecond, DownTimeout: 50 * time.Millisecond})
	first := true
	job, err := c.WatchJob(t.Context(), api.Watch{Job: api.JobRef{ID: 7}, Notice: func(m string) {
		notices <- m
		// Only once the outage was noticed does the controller come back, with the job at its end.
		if strings.HasSuffix(m, "; waiting") {
			s.Change(7, func(j *fettlev1.Job) { j.State = model.Failed })
			if err := s.Listen(s.Addr()); err != nil {
				t.Error(err)
			}
		}
	}}, func(j *fettlev1.Job) bool {
		if first {
			s.Stop()
		}
		first = false
		return model.Terminal(j.GetState())
	})
	if err != nil || job.GetState() != model.Failed {
		t.Fatalf("got %v, %v", job, err)
	}
	if a, b := <-notices, <-notices; !strings.Contains(a, "does not answer") || b != "connected again" {
		t.Errorf("notices %q, %q", a, b)
	}
}

func TestWatchUnknownJobIsRefused(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	_, err := c.WatchJob(t.Context(), api.Watch{Job: api.JobRef{ID: 9}, Patient: true}, func(*fettlev1.Job) bool { return true })
	if !api.IsCode(err, codes.NotFound) {
		t.Errorf("got %v", err)
	}
}

// logText is output long enough to come in several pieces.
func logText(attempt int) string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "attempt %d line %d\n", attempt, i)
	}
	return b.String()
}

func TestReadLogLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 3, State: model.Completed, Attempt: 1})
	s.Log(3, 1, false, logText(1))
	for range 5 {
		s.Fail("LogPiece", fakectl.Fault{Err: unavailable("x")})
	}
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	var got strings.Builder
	job, err := c.ReadLog(t.Context(), api.LogReader{Job: api.JobRef{ID: 3}}, func(ch api.LogChunk) error {
		if int(ch.Offset) != got.Len() {
			t.Errorf("offset %d after %d bytes", ch.Offset, got.Len())
		}
		got.Write(ch.Data)
		return nil
	})
	if err != nil || job.GetId() != 3 {
		t.Fatal(job, err)
	}
	if got.String() != logText(1) {
		t.Errorf("got %d bytes, want %d", got.Len(), len(logText(1)))
	}
}

func TestFollowGoesOverAttemptsToTheEnd(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 3, State: model.Pending})
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	var got strings.Builder
	waits := 0
	job, err := c.ReadLog(t.Context(), api.LogReader{Job: api.JobRef{ID: 3}, Follow: true, Waiting: func(j *fettlev1.Job) {
		if waits++; waits == 1 {
			s.Log(3, 1, false, logText(1))
			s.Change(3, func(j *fettlev1.Job) { j.State, j.Attempt = model.Running, 1 })
		}
	}}, func(ch api.LogChunk) error {
		got.Write(ch.Data)
		switch {
		case ch.Attempt == 1 && got.Len() == len(logText(1)):
			// The connection breaks between the attempts.
			s.Fail("LogPiece", fakectl.Fault{Err: unavailable("x")})
			s.Log(3, 2, false, logText(2))
			s.Change(3, func(j *fettlev1.Job) { j.Attempt = 2 })
		case got.Len() == len(logText(1)+logText(2)):
			s.Change(3, func(j *fettlev1.Job) { j.State, j.ExitCode = model.Failed, 3 })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if job.GetState() != model.Failed || job.GetExitCode() != 3 {
		t.Errorf("ended with %v", job)
	}
	if got.String() != logText(1)+logText(2) {
		t.Errorf("got %d bytes, want %d:\n%s", got.Len(), len(logText(1)+logText(2)), got.String())
	}
}

func TestFollowOfAJobThatNeverStarts(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 3, State: model.Pending})
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	job, err := c.ReadLog(t.Context(), api.LogReader{Job: api.JobRef{ID: 3}, Attempt: 1, Follow: true, Waiting: func(*fettlev1.Job) {
		s.Change(3, func(j *fettlev1.Job) { j.State = model.Cancelled })
	}}, func(api.LogChunk) error { return errors.New("no output was expected") })
	if err != nil || job.GetState() != model.Cancelled {
		t.Errorf("got %v, %v", job, err)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.Put(&fettlev1.Job{Id: 3, State: model.Running, Attempt: 2})
	s.Log(3, 2, false, "0123456789")
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	for _, tc := range []struct {
		r    api.LogReader
		want string
		code codes.Code
	}{
		{api.LogReader{Job: api.JobRef{ID: 3}, TailBytes: 4}, "6789", codes.OK},
		{api.LogReader{Job: api.JobRef{ID: 3}, Attempt: 2, Offset: 8}, "89", codes.OK},
		{api.LogReader{Job: api.JobRef{ID: 3}, Attempt: 1}, "", codes.OK},
		{api.LogReader{Job: api.JobRef{ID: 3}, Attempt: 5}, "", codes.NotFound},
		{api.LogReader{Job: api.JobRef{ID: 4}}, "", codes.NotFound},
	} {
		var got strings.Builder
		_, err := c.ReadLog(t.Context(), tc.r, func(ch api.LogChunk) error { got.Write(ch.Data); return nil })
		if got.String() != tc.want || tc.code != codes.OK && !api.IsCode(err, tc.code) || tc.code == codes.OK && err != nil {
			t.Errorf("%+v: got %q, %v", tc.r, got.String(), err)
		}
	}
}

func TestNewRefusesBadConfigs(t *testing.T) {
	t.Parallel()
	for _, cfg := range []api.Config{{}, {Controllers: []string{"a:1"}, Timeout: -1}, {Controllers: []string{"a:1"}, Backoff: -1}} {
		if _, err := api.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestRequestIDsDiffer(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		id := api.NewRequestID()
		if len(id) != 32 || seen[id] {
			t.Fatalf("bad or repeated id %q", id)
		}
		seen[id] = true
	}
}
