package attempt

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/noded/internal/logread"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

const (
	// logTail is how much of the output a launcher gets to judge an end by.
	logTail = 256 << 10
	// trainerStateMax bounds trainer_state.json, whose history grows with the steps.
	trainerStateMax = 4 << 20
	// readPatience bounds reading either of them.
	readPatience = 10 * time.Second
	// progressEvery is how often a launcher is asked about new lines of the progress file.
	progressEvery = 2 * time.Second
	// progressChunk bounds what it gets at once.
	progressChunk = 1 << 20
)

// progressState is what is known of an attempt's training.
type progressState struct {
	mu     sync.Mutex
	newest *fettlev1.Progress
	fresh  bool
}

func (p *progressState) set(n *fettlev1.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest, p.fresh = n, true
}

func (p *progressState) get() *fettlev1.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newest
}

// Progress returns what has changed since the last call, in key order.
func (m *Manager) Progress() []*fettlev1.AttemptProgress {
	m.mu.Lock()
	var es []*entry
	for _, e := range m.entries {
		es = append(es, e)
	}
	m.mu.Unlock()
	slices.SortFunc(es, func(a, b *entry) int { return a.key.Compare(b.key) })
	var items []*fettlev1.AttemptProgress
	for _, e := range es {
		e.progress.mu.Lock()
		if e.progress.fresh {
			e.progress.fresh = false
			items = append(items, &fettlev1.AttemptProgress{Key: e.key.Proto(), Progress: e.progress.newest})
		}
		e.progress.mu.Unlock()
	}
	return items
}

// follow reads a training attempt's progress until it is over. Scripts have none.
func (m *Manager) follow(e *entry) {
	m.mu.Lock()
	i := e.info
	m.mu.Unlock()
	if i == nil || isScript(i.Method) || i.ProgressFile == "" {
		return
	}
	l, err := m.launcher(i.Method)
	if err != nil {
		m.cfg.Log.Warn("no progress without a launcher", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
		return
	}
	m.mu.Lock()
	e.followed = make(chan struct{})
	m.mu.Unlock()
	m.wg.Go(func() {
		defer close(e.followed)
		m.followProgress(e, i, l)
	})
}

func (m *Manager) followProgress(e *entry, i *info, l Launcher) {
	// One reader fills, one asker empties; between them at most a chunk.
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	var mu sync.Mutex
	var pending bytes.Buffer
	room := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- m.reader.Read(ctx, i.identity(), logread.Request{Path: i.ProgressFile, Follow: true}, e.ended, func(_ int64, b []byte) error {
			for {
				mu.Lock()
				fits := pending.Len()+len(b) <= progressChunk
				if fits {
					pending.Write(b)
				}
				mu.Unlock()
				if fits {
					return nil
				}
				select {
				case <-room:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var cursor []byte
	ask := func() {
		mu.Lock()
		data := bytes.Clone(pending.Bytes())
		mu.Unlock()
		if len(data) == 0 {
			return
		}
		resp, err := l.Progress(ctx, &pluginv1.ProgressRequest{JobId: e.key.Job, Attempt: e.key.Attempt, Data: data,
			NowMs: m.cfg.Now().UnixMilli(), AttemptStartMs: i.PreparedMS, Cursor: cursor})
		if err != nil {
			// The data waits for the next time; a launcher that stays away is logged by its host.
			m.cfg.Log.Debug("no progress", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
			return
		}
		mu.Lock()
		pending.Next(len(data))
		mu.Unlock()
		select {
		case room <- struct{}{}:
		default:
		}
		cursor = resp.GetCursor()
		if p := resp.GetProgress(); p != nil {
			p = proto.CloneOf(p)
			p.Attempt = e.key.Attempt
			e.progress.set(p)
		}
	}
	for {
		select {
		case <-tick.C:
			ask()
		case err := <-done:
			ask()
			if err != nil && !errors.Is(err, context.Canceled) {
				m.cfg.Log.Info("progress cannot be read", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
			}
			return
		}
	}
}

// classify lets the launcher say what an end means. Without a verdict the exit stands as it is.
func (m *Manager) classify(e *entry, exit *fettlev1.Exit) {
	m.mu.Lock()
	unread := e.followed == nil
	m.mu.Unlock()
	if unread {
		m.follow(e) // it ended while no daemon was there to read
	}
	m.mu.Lock()
	i, followed := e.info, e.followed
	e.close()
	m.mu.Unlock()
	if followed != nil {
		t := time.NewTimer(readPatience)
		select {
		case <-followed:
		case <-t.C:
		case <-m.ctx.Done():
		}
		t.Stop()
	}
	if exit.GetClass() == fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED {
		return // the node has ended it, and knows why
	}
	l, err := m.launcher(i.Method)
	if err == nil {
		err = m.judge(e, i, l, exit)
	}
	if err != nil {
		m.cfg.Log.Warn("an end was not classified", "job", e.key.Job, "attempt", e.key.Attempt, "err", err)
	}
}

func (m *Manager) judge(e *entry, i *info, l Launcher, exit *fettlev1.Exit) error {
	req := &pluginv1.ClassifyRequest{JobId: e.key.Job, Attempt: e.key.Attempt, Exit: exit, Progress: e.progress.get(),
		OutputDir: i.OutputDir, AttemptDir: m.filesOf(e.key)}
	path := i.Stdout
	if i.Stderr != "" {
		path = i.Stderr
	}
	req.LogTail = m.tail(i, path, m.OutputStart(e.key, i.Stderr != ""), logTail)
	if i.OutputDir != "" {
		req.TrainerState = m.tail(i, filepath.Join(i.OutputDir, "trainer_state.json"), 0, trainerStateMax)
	}
	resp, err := l.Classify(m.ctx, req)
	if err != nil {
		return err
	}
	if exit.Class = resp.GetClass(); exit.Class == fettlev1.ExitClass_EXIT_CLASS_VRAM_EXCEEDED {
		exit.Class = fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED // not a launcher's to say
	}
	if d := oneLine(resp.GetDetail()); d != "" {
		exit.Detail = d
	}
	return nil
}

// tail reads the end of a file as the job's user, from start at the earliest; nothing when it cannot be read.
func (m *Manager) tail(i *info, path string, start, size int64) []byte {
	ctx, cancel := context.WithTimeout(m.ctx, readPatience)
	defer cancel()
	var b []byte
	err := m.reader.Read(ctx, i.identity(), logread.Request{Path: path, Tail: size, Start: start}, nil, func(_ int64, piece []byte) error {
		b = append(b, piece[:min(int64(len(piece)), size-int64(len(b)))]...)
		return nil
	})
	if err != nil {
		m.cfg.Log.Debug("cannot read for the verdict", "path", path, "err", err)
	}
	return b
}
