package attempt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// scripted is a launcher that does as a test says.
type scripted struct {
	mu       sync.Mutex
	plan     func(*pluginv1.PlanRequest) (*pluginv1.PlanResponse, error)
	progress func(*pluginv1.ProgressRequest) *pluginv1.ProgressResponse
	classify func(*pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error)
}

func (s *scripted) Plan(_ context.Context, r *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
	return s.plan(r)
}

func (s *scripted) Progress(_ context.Context, r *pluginv1.ProgressRequest) (*pluginv1.ProgressResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress(r), nil
}

func (s *scripted) Classify(_ context.Context, r *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
	return s.classify(r)
}

func withLauncher(l *scripted) option {
	return func(c *Config) {
		c.Engine = "trainer"
		c.Launcher = func(method string) (Launcher, error) {
			if method != "lora" {
				return nil, errors.New("no launcher for " + method)
			}
			return l, nil
		}
	}
}

func (r *rig) training(id uint64) nodemachine.StartShim {
	s := r.job(id, "")
	s.Prepare.Spec.Method, s.Prepare.Spec.Script = "lora", nil
	s.Prepare.Spec.Config, s.Prepare.Spec.ConfigPath = []byte("lora_rank: 8\n"), "/w/x.yaml"
	return s
}

func TestTrainingFromPlanToVerdict(t *testing.T) {
	t.Parallel()
	var r *rig
	var asked []*pluginv1.PlanRequest
	var verdict *pluginv1.ClassifyRequest
	l := &scripted{
		plan: func(req *pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
			asked = append(asked, req)
			return &pluginv1.PlanResponse{
				Argv: []string{"sh", "-c", `cat $FETTLE_ATTEMPT_DIR/cfg/job.yaml; echo "$OWN"; mkdir -p outdir; echo '{"s":1}' >>outdir/log; while ! [ -e go ]; do sleep 0.01; done
echo '{"s":2}' >>outdir/log; echo '{"global_step":2}' >outdir/trainer_state.json; echo "CUDA out of memory"; exit 1`},
				Env:       []*fettlev1.KeyValue{{Key: "OWN", Value: "of the launcher"}, {Key: "FETTLE_ATTEMPT", Value: "77"}},
				Files:     []*pluginv1.PlannedFile{{Path: "cfg/job.yaml", Content: []byte("rendered\n"), Mode: 0o600}},
				OutputDir: filepath.Join(r.work, "outdir"), ProgressFile: filepath.Join(r.work, "outdir", "log"),
				Notes: []string{"resumes from nothing"},
			}, nil
		},
		progress: func(req *pluginv1.ProgressRequest) *pluginv1.ProgressResponse {
			all := append(req.GetCursor(), req.GetData()...)
			return &pluginv1.ProgressResponse{Cursor: all, Progress: &fettlev1.Progress{Step: int64(bytes.Count(all, []byte("\n")))}}
		},
		classify: func(req *pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
			verdict = req
			return &pluginv1.ClassifyResponse{Class: fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY, Detail: "CUDA out\nof memory"}, nil
		},
	}
	r = newRig(t, withLauncher(l))
	s := r.training(1)
	r.m.Start(s)
	r.started(s.Key)
	eventually(t, "progress", func() bool {
		ps := r.m.Progress()
		return len(ps) == 1 && ps[0].GetProgress().GetStep() == 1 && ps[0].GetProgress().GetAttempt() == 1
	})
	if ps := r.m.Progress(); len(ps) != 0 {
		t.Errorf("progress that did not change is told again: %v", ps)
	}
	// The verdict does not depend on the daemon that started the attempt.
	r.restart()
	if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e := r.ended(s.Key)
	if e.GetCode() != 1 || e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_OUT_OF_MEMORY || e.GetDetail() != "CUDA out of memory" {
		t.Errorf("%v", e)
	}
	if got := r.read("out"); got != "fettle: resumes from nothing\nrendered\nof the launcher\nCUDA out of memory\n" {
		t.Errorf("%q", got)
	}
	if len(asked) != 1 || string(asked[0].GetConfig().GetYaml()) != "lora_rank: 8\n" || asked[0].GetEngine() != "trainer" ||
		asked[0].GetAttemptDir() != r.m.filesOf(s.Key) {
		t.Errorf("%v", asked)
	}
	if !strings.HasSuffix(string(verdict.GetLogTail()), "CUDA out of memory\n") || string(verdict.GetTrainerState()) != "{\"global_step\":2}\n" ||
		verdict.GetProgress().GetStep() != 2 || verdict.GetExit().GetCode() != 1 {
		t.Errorf("asked for a verdict on %v", verdict)
	}
	if p := r.m.LastProgress(s.Key); p.GetProgress().GetStep() != 2 || p.GetKey().GetJobId() != 1 {
		t.Errorf("the last progress: %v", p)
	}
	if p, ps := r.m.LastProgress(s.Key), r.m.Progress(); p != nil || len(ps) != 0 {
		t.Errorf("told again: %v, %v", p, ps)
	}
}

// The last step of a training that ended while no daemon was there is read by the next one, before it tells the end.
func TestProgressOfATrainingThatEndedUnseen(t *testing.T) {
	t.Parallel()
	var r *rig
	l := &scripted{
		plan: func(*pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
			return &pluginv1.PlanResponse{
				Argv:         []string{"sh", "-c", "while ! [ -e go ]; do sleep 0.01; done; echo x >log; echo x >>log; echo x >>log"},
				ProgressFile: filepath.Join(r.work, "log"),
			}, nil
		},
		progress: func(req *pluginv1.ProgressRequest) *pluginv1.ProgressResponse {
			all := append(req.GetCursor(), req.GetData()...)
			return &pluginv1.ProgressResponse{Cursor: all, Progress: &fettlev1.Progress{Step: int64(bytes.Count(all, []byte("\n")))}}
		},
		classify: func(*pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
			return &pluginv1.ClassifyResponse{Class: fettlev1.ExitClass_EXIT_CLASS_DONE}, nil
		},
	}
	r = newRig(t, withLauncher(l))
	s := r.training(1)
	r.m.Start(s)
	r.started(s.Key)
	r.m.Close()
	if err := os.WriteFile(filepath.Join(r.work, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the exit is recorded", func() bool {
		_, recs, err := r.m.read(s.Key, 0)
		return err == nil && recs.Exit != nil
	})
	r.open()
	if e := r.ended(s.Key); e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_DONE {
		t.Errorf("%v", e)
	}
	if p := r.m.LastProgress(s.Key); p.GetProgress().GetStep() != 3 {
		t.Errorf("the last progress: %v", p)
	}
}

func TestLauncherRefuses(t *testing.T) {
	t.Parallel()
	var resp *pluginv1.PlanResponse
	var perr error
	r := newRig(t, withLauncher(&scripted{plan: func(*pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) { return resp, perr }}))
	for i, c := range []struct {
		resp *pluginv1.PlanResponse
		err  error
		user bool
		want string
	}{
		{&pluginv1.PlanResponse{Problems: []*pluginv1.Problem{{Field: "dataset", Line: 3, Problem: "file is gone", Remedy: "put it back"}}}, nil, true,
			"dataset (line 3): file is gone; put it back"},
		{nil, errors.New("plugin died"), false, "launcher lora: plugin died"},
		{&pluginv1.PlanResponse{}, nil, false, "launcher lora: its plan has no command"},
		{&pluginv1.PlanResponse{Argv: []string{"no-such-trainer"}}, nil, true, "no-such-trainer: not found on the job's PATH"},
		{&pluginv1.PlanResponse{Argv: []string{"true"}, Files: []*pluginv1.PlannedFile{{Path: "../x"}}}, nil, false, "not below the attempt's directory"},
	} {
		resp, perr = c.resp, c.err
		s := r.training(uint64(i + 1))
		r.m.Start(s)
		if e := r.failed(s.Key); e.GetUserError() != c.user || !strings.Contains(e.GetDetail(), c.want) {
			t.Errorf("%v, want %q", e, c.want)
		}
	}
}

func TestAnEndWithoutAVerdictIsAnEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, withLauncher(&scripted{
		plan: func(*pluginv1.PlanRequest) (*pluginv1.PlanResponse, error) {
			return &pluginv1.PlanResponse{Argv: []string{"sh", "-c", "exit 9"}}, nil
		},
		classify: func(*pluginv1.ClassifyRequest) (*pluginv1.ClassifyResponse, error) {
			return nil, errors.New("plugin died")
		},
	}))
	if e := r.run(r.training(1)); e.GetCode() != 9 || e.GetClass() != fettlev1.ExitClass_EXIT_CLASS_UNSPECIFIED {
		t.Errorf("%v", e)
	}
}
