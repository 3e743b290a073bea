package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/ctld/internal/api"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// dialer keeps one connection per controller.
type dialer struct {
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func newDialer() *dialer { return &dialer{conns: map[string]*grpc.ClientConn{}} }

func (d *dialer) dial(addr string) (fettlev1.ControllerServiceClient, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.conns[addr]; ok {
		return fettlev1.NewControllerServiceClient(c), nil
	}
	c, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 2 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	d.conns[addr] = c
	return fettlev1.NewControllerServiceClient(c), nil
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close()
	}
}

// joiner carries a join over the API of the controllers that are there already.
type joiner struct{ d *daemon }

// Cluster asks which cluster the controller at addr belongs to.
func (j *joiner) Cluster(ctx context.Context, addr string) (raftstore.ClusterInfo, error) {
	client, err := j.d.dialer.dial(addr)
	if err != nil {
		return raftstore.ClusterInfo{}, err
	}
	resp, err := client.AddServer(ctx, &fettlev1.AddServerRequest{})
	if err != nil {
		return raftstore.ClusterInfo{}, joinError(addr, err)
	}
	return raftstore.ClusterInfo{ClusterID: resp.GetClusterId(), Incarnation: resp.GetIncarnation()}, nil
}

// Join asks the leader, through the controller at addr, to add this one.
func (j *joiner) Join(ctx context.Context, addr string, req raftstore.JoinRequest) error {
	client, err := j.d.dialer.dial(addr)
	if err != nil {
		return err
	}
	_, err = client.AddServer(ctx, &fettlev1.AddServerRequest{
		ClusterId: req.ClusterID, ServerId: req.ServerID, Name: j.d.cfg.Name, RaftAddr: req.RaftAddr, ClientAddr: j.d.cfg.ClientAddr,
	})
	return joinError(addr, err)
}

// joinError tells refusals, which are final, from everything that a later try may cure.
func joinError(addr string, err error) error {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if ed, ok := d.(*fettlev1.ErrorDetail); ok && ed.GetLeaderAddr() != "" {
			return errors.New(addr + ": " + st.Message())
		}
	}
	switch st.Code() {
	case codes.OK:
		return nil
	case codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition:
		for kind, field := range map[error]string{raftstore.ErrRetired: api.FieldServerID, raftstore.ErrNameInUse: api.FieldName} {
			if d := refusedFor(st, field); d != nil {
				return fmt.Errorf("%w: %s; %s", kind, d.GetProblem(), d.GetRemedy())
			}
		}
		return fmt.Errorf("%w by %s: %s", raftstore.ErrJoinRefused, addr, st.Message())
	}
	return errors.New(addr + ": " + st.Message())
}

// refusedFor returns the detail of a refusal that is about a field, nil when it is about anything else.
func refusedFor(st *status.Status, field string) *fettlev1.ErrorDetail {
	for _, d := range st.Details() {
		if ed, ok := d.(*fettlev1.ErrorDetail); ok && ed.GetField() == field {
			return ed
		}
	}
	return nil
}
