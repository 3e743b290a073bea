package raftstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/datadir"
	"github.com/fettle-hpc/fettle/ctld/internal/raftstore/peernet"
)

// drainTimeout bounds the wait of Shutdown for outcomes still on their way.
const drainTimeout = time.Second

// Store is one server of the replicated log. Its methods may be called from any
// goroutine.
type Store struct {
	cfg       Config
	log       *slog.Logger
	ident     Identity
	heartbeat time.Duration
	*disk
	space atomic.Pointer[Disk]

	raft  *raft.Raft
	trans *transport
	layer *peernet.Layer
	fsm   *machine
	acks  *acks
	lead  *leadership
	reads *reader

	flight     flight
	membership chan struct{} // holds the token of the membership change under way
	member     atomic.Bool   // a committed membership has listed this server

	removedOnce sync.Once

	dead      atomic.Bool // fatal was called
	fatalOnce sync.Once
	closeOnce sync.Once
	closeErr  error
	done      chan struct{}

	// background goroutines, in the order in which they are stopped
	stopLead   context.CancelFunc
	leadDone   sync.WaitGroup
	stopOthers context.CancelFunc
	othersDone sync.WaitGroup
	stopPump   context.CancelFunc
	pumpDone   sync.WaitGroup
}

// Open checks the data directory, starts Raft, and joins the cluster if this
// server is not a voter yet and Config.Join is set. ctx bounds the opening alone;
// a join that it interrupts is continued by the next Open. ExitCode says how the
// process should end on an error, whose text is one line for the operator.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if err := raft.ValidateConfig(cfg.raftConfig(cfg.NodeName, nil)); err != nil {
		return nil, fmt.Errorf("raft settings at Timing %v: %w", cfg.Timing, err)
	}
	s := &Store{
		cfg:        cfg,
		log:        cfg.Logger,
		heartbeat:  cfg.scale(heartbeatTimeout),
		fsm:        newMachine(cfg.FSM),
		acks:       newAcks(),
		reads:      newReader(),
		flight:     flight{max: cfg.MaxInFlight},
		membership: make(chan struct{}, 1),
		done:       make(chan struct{}),
	}
	s.lead = newLeadership(s)
	if err := s.open(ctx); err != nil {
		if cfg.Listener != nil {
			_ = cfg.Listener.Close()
		}
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	dir, err := openDir(&s.cfg)
	if err != nil {
		return err
	}
	if err := s.openIn(ctx, dir); err != nil {
		_ = dir.Close()
		return err
	}
	return nil
}

// openIn goes on with the directory locked. When it fails it has closed all else.
func (s *Store) openIn(ctx context.Context, dir *datadir.Dir) error {
	for _, w := range dir.Warnings() {
		s.log.Warn("data directory is odd", "what", w)
	}
	listener, advertise, err := listen(&s.cfg)
	if err != nil {
		return err
	}
	id, pending, err := identify(ctx, &s.cfg, dir)
	if err != nil {
		_ = listener.Close()
		return err
	}
	s.ident = identity(id)
	if s.disk, err = openDisk(dir, &s.cfg, s.onSlow, s.onWriteError); err != nil {
		_ = listener.Close()
		return err
	}
	if !pending {
		err = contain(func() error { return s.verify(id.Origin) })
	}
	if err == nil {
		err = s.readDisk()
	}
	if err == nil {
		s.layer, err = peernet.New(peernet.Config{
			Listener: listener, Advertise: advertise, TLS: s.cfg.TLS,
			ClusterID: id.ClusterID + "/" + id.Incarnation, ServerID: id.ServerID,
			Authorize: s.authorize, OnRetired: s.onRetired, Dial: s.cfg.Hooks.Dial, Logger: s.log,
		})
	}
	if err != nil {
		_ = listener.Close()
		s.disk.close()
		return err
	}
	s.trans = newTransport(s.layer, &s.cfg, s.acks)
	if err := s.startRaft(pending); err != nil {
		_ = s.trans.Close()
		s.disk.close()
		return err
	}
	if err := s.joinCluster(ctx, advertise); err != nil {
		if errors.Is(err, ErrRetired) {
			_ = dir.MarkRemoved(err.Error())
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*TransferTimeout)
		defer cancel()
		_ = s.Shutdown(stop)
		return err
	}
	s.log.Info("raft store is open", "id", s.ident.ServerID, "addr", advertise)
	return nil
}

// authorize decides about inbound peers.
func (s *Store) authorize(id string, state *tls.ConnectionState) error {
	if s.cfg.Retired != nil && s.cfg.Retired(id) {
		return fmt.Errorf("%w: %s", ErrRetired, id)
	}
	if s.cfg.AuthorizePeer != nil {
		return s.cfg.AuthorizePeer(id, state)
	}
	return nil
}

// startRaft bootstraps if that is pending and starts Raft and all goroutines.
func (s *Store) startRaft(pending bool) error {
	s.fsm.onApplied = s.high.note
	s.fsm.onMembership = s.onMembership
	s.high.applied = s.fsm.applied.Load
	conf := s.cfg.raftConfig(s.ident.ServerID, s.lead.notify)
	if pending {
		if err := s.bootstrap(conf); err != nil {
			return err
		}
	}
	pump, stopPump := context.WithCancel(context.Background())
	s.stopPump = stopPump
	s.pumpDone.Go(func() { s.lead.pump(pump.Done()) })
	err := contain(func() (err error) {
		s.raft, err = raft.NewRaft(conf, s.fsm, s.logs, s.guard, s.snaps, s.trans)
		return err
	})
	if err != nil {
		stopPump()
		s.pumpDone.Wait()
		switch {
		case s.fsm.restoreErr != nil: // the files are whole, the state machine does not like them
			return fmt.Errorf("%s: newest snapshot cannot be restored: %w", s.dir.Path(), s.fsm.restoreErr)
		case errors.Is(err, ErrWrite):
			return err
		}
		return lost(s.dir, "raft cannot start: "+err.Error())
	}
	s.high.term = s.raft.CurrentTerm
	seen := make(chan raft.Observation, 1)
	s.raft.RegisterObserver(raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	}))
	s.pumpDone.Go(func() { s.lead.observe(seen, pump.Done()) })
	others, stopOthers := context.WithCancel(context.Background())
	s.stopOthers = stopOthers
	s.othersDone.Go(func() { s.high.run(others) })
	s.othersDone.Go(func() { s.serveReads(others) })
	s.othersDone.Go(func() { s.watchDisk(others) })
	s.othersDone.Go(func() { s.watchMembership(others) })
	lead, stopLead := context.WithCancel(context.Background())
	s.stopLead = stopLead
	s.leadDone.Go(func() { s.lead.run(lead.Done()) })
	return nil
}

// bootstrap writes the first membership and then makes the identity count. A
// crash in between is repaired by doing it again.
func (s *Store) bootstrap(conf *raft.Config) error {
	err := contain(func() error {
		return raft.BootstrapCluster(conf, s.logs, s.guard, s.snaps, s.trans, raft.Configuration{Servers: []raft.Server{{
			Suffrage: raft.Voter, ID: conf.LocalID, Address: s.trans.LocalAddr(),
		}}})
	})
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("%w: bootstrap: %w", ErrWrite, err)
	}
	if err := s.dir.CommitIdentity(); err != nil {
		return fmt.Errorf("%w: bootstrap: %w", ErrWrite, err)
	}
	s.log.Info("cluster bootstrapped", "cluster", s.ident.ClusterID, "id", s.ident.ServerID)
	return nil
}

// joinCluster makes this server a voter, or at its new address one again.
func (s *Store) joinCluster(ctx context.Context, advertise string) error {
	self, known := s.self()
	settled := known && self.Voter && self.Addr == advertise
	if settled {
		return nil
	}
	if len(s.cfg.Join) == 0 {
		if known && self.Addr != advertise {
			s.log.Warn("raft address differs from the membership's; the others need Peers or this one --join", "addr", advertise, "member_addr", self.Addr)
		}
		if !known && s.raft.LastIndex() == 0 {
			return fmt.Errorf("%w: %s: its join was never finished: start with --join ADDR", ErrNoIdentity, s.dir.Path())
		}
		if known && !self.Voter {
			s.log.Warn("this server has no vote: start it with --join ADDR to finish its join", "id", s.ident.ServerID)
		}
		return nil
	}
	req := JoinRequest{ClusterID: s.ident.ClusterID, ServerID: s.ident.ServerID, RaftAddr: advertise}
	if err := eachJoin(ctx, &s.cfg, func(address string) error { return s.cfg.Joiner.Join(ctx, address, req) }); err != nil {
		return err
	}
	for {
		if self, known := s.self(); known && self.Voter && self.Addr == advertise {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("join: waiting for the membership: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *Store) self() (Server, bool) {
	for _, m := range s.configuration().Servers {
		if string(m.ID) == s.ident.ServerID {
			return server(m), true
		}
	}
	return Server{}, false
}

// Identity returns who this server is.
func (s *Store) Identity() Identity { return s.ident }

// Warnings lists what Open found odd about the data directory, one line each.
func (s *Store) Warnings() []string { return s.dir.Warnings() }

// Done is closed when the store has stopped.
func (s *Store) Done() <-chan struct{} { return s.done }

// Status summarizes the local server.
func (s *Store) Status() Status {
	st := Status{
		Identity:     s.ident,
		State:        s.raft.State().String(),
		Term:         s.raft.CurrentTerm(),
		LastIndex:    s.raft.LastIndex(),
		CommitIndex:  s.raft.CommitIndex(),
		AppliedIndex: s.AppliedIndex(),
		Members:      s.Members(),
		Disk:         s.Disk(),
	}
	if list, err := s.snaps.List(); err == nil && len(list) > 0 {
		st.SnapshotIndex = list[0].Index
	}
	return st
}

// Snapshot takes a snapshot now and returns its index. It fails when nothing was
// applied since the start.
func (s *Store) Snapshot(ctx context.Context) (index uint64, err error) {
	if s.flight.isClosed() {
		return 0, ErrClosed
	}
	var f raft.SnapshotFuture
	if err := s.await(ctx, func() raft.Future { f = s.raft.Snapshot(); return f }); err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	meta, r, err := f.Open()
	if err != nil {
		return 0, fmt.Errorf("snapshot: %w", err)
	}
	return meta.Index, r.Close()
}

// onSlow ends the process because a write hangs.
func (s *Store) onSlow(op string) {
	s.fatal(ExitSlowWrite, fmt.Sprintf("raft log on %s: %s takes longer than %v: leaving so that another controller can lead", s.cfg.DataDir, op, s.cfg.WriteLimit))
}

// onWriteError ends the process because a write failed. After a failed sync the
// kernel may forget what was not written, so a later success proves nothing: the
// directory is not used again.
func (s *Store) onWriteError(op string, err error) {
	msg := fmt.Sprintf("raft log on %s: %s: %v", s.cfg.DataDir, op, err)
	if quarantines(err) {
		msg += ": the directory is quarantined; discard it and start with --join ADDR"
		noted := make(chan struct{})
		go func() { // the disk may hang on this, too
			defer close(noted)
			_ = Quarantine(s.cfg.DataDir, fmt.Sprintf("%s: %v", op, err))
		}()
		select {
		case <-noted:
		case <-time.After(500 * time.Millisecond):
		}
	}
	s.fatal(ExitWriteError, msg)
}

// fatal ends the process. Where the caller's Fatal returns, as in tests, the
// store acts dead to the other servers.
func (s *Store) fatal(code int, msg string) {
	s.fatalOnce.Do(func() {
		go s.log.Error("controller cannot go on", "code", code, "reason", msg) // a stuck log must not keep it
		s.cfg.Fatal(code, msg)
		s.dead.Store(true)
		s.flight.close()
		s.lead.set(false)
		if s.layer != nil {
			_ = s.layer.Close()
		}
	})
}

// exit is the default Config.Fatal.
func exit(code int, msg string) {
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		fmt.Fprintln(os.Stderr, msg)
	}()
	select {
	case <-printed:
	case <-time.After(200 * time.Millisecond):
	}
	os.Exit(code)
}

// Quarantine makes every later Open of the data directory fail with
// ErrQuarantined: for a replica that has diverged from the others. The directory
// may be open.
func Quarantine(dataDir, reason string) error {
	return datadir.Quarantine(dataDir, time.Now().UTC().Format(time.RFC3339)+": "+reason)
}

// Discard moves everything in a data directory into a subdirectory of it, so that
// the next Open can join under a new identity, and returns that subdirectory. No
// Store may be open on it.
func Discard(dataDir string) (movedTo string, err error) {
	return datadir.Discard(dataDir, time.Now())
}

// Shutdown refuses new proposals, hands leadership over (within TransferTimeout),
// waits a moment for outcomes on their way, calls OnLost if due, stops Raft and
// closes the files. When ctx ends first, or the disk hangs, it returns an error
// and the process should exit. Later calls return the result of the first.
func (s *Store) Shutdown(ctx context.Context) error {
	s.closeOnce.Do(func() {
		s.closeErr = s.shutdown(ctx)
		close(s.done)
	})
	return s.closeErr
}

func (s *Store) shutdown(ctx context.Context) error {
	s.flight.close()
	if s.raft.State() == raft.Leader && !s.dead.Load() {
		handover, cancel := context.WithTimeout(ctx, TransferTimeout)
		if err := s.Transfer(handover); err != nil && !errors.Is(err, ErrNoSuccessor) {
			s.log.Warn("leadership is not handed over", "err", err)
		}
		cancel()
	}
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	_ = s.flight.wait(drain)
	cancel()
	s.stopLead()
	if err := within(ctx, "leadership callbacks", s.leadDone.Wait); err != nil {
		return err
	}
	future := s.raft.Shutdown()
	_ = s.trans.Close()
	if err := within(ctx, "raft", func() { _ = future.Error() }); err != nil {
		return err
	}
	s.stopPump()
	s.stopOthers()
	return within(ctx, "data directory", func() {
		s.pumpDone.Wait()
		s.othersDone.Wait()
		s.disk.close()
		_ = s.dir.Close()
	})
}

// within waits for fn, but not beyond ctx.
func within(ctx context.Context, what string, fn func()) error {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		fn()
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shutdown: %s did not stop: %w", what, context.Cause(ctx))
	}
}
