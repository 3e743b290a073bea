package preempt

import (
	"math"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// ToProto is the request as a plugin gets it.
func (r *Request) ToProto() *pluginv1.SelectVictimsRequest {
	out := &pluginv1.SelectVictimsRequest{NowMs: r.NowMS, Nodes: r.Nodes}
	for i := range r.Jobs {
		j := &r.Jobs[i]
		job := &pluginv1.BlockedJob{JobId: j.ID, Score: j.Score, Candidates: unsigned(j.Candidates)}
		for k := range j.Needs {
			n := &j.Needs[k]
			need := &pluginv1.Need{
				Nodes: clamp(n.Nodes), GpusPerNode: clamp(n.GPUs), CpusPerNode: clamp(n.CPUs), MemoryMibPerNode: n.MemoryMiB, GpuType: n.GPUType,
			}
			for _, p := range n.Places {
				need.Places = append(need.Places, &pluginv1.Place{
					Node: clamp(p.Node), FreeGpus: clamp(p.GPUs), FreeCpus: clamp(p.CPUs), FreeMemoryMib: p.MemoryMiB, Gpus: unsigned(p.Cards),
				})
			}
			job.Needs = append(job.Needs, need)
		}
		out.Jobs = append(out.Jobs, job)
	}
	for i := range r.Candidates {
		c := &r.Candidates[i]
		candidate := &pluginv1.Candidate{
			JobId: c.ID, Size: c.Size, LostS: c.LostS, RestartS: c.RestartS, RunS: c.RunS, Score: c.Score, Preempted: c.Preempted,
		}
		for _, h := range c.Holds {
			candidate.Holds = append(candidate.Holds, &pluginv1.Holding{
				Node: clamp(h.Node), Gpus: unsigned(h.Cards), Cpus: clamp(h.CPUs), MemoryMib: h.MemoryMiB,
			})
		}
		out.Candidates = append(out.Candidates, candidate)
	}
	return out
}

// FromProto reads a request whose numbers fit its lists, as the sdk makes sure.
func FromProto(req *pluginv1.SelectVictimsRequest) *Request {
	out := &Request{NowMS: req.GetNowMs(), Nodes: req.GetNodes()}
	for _, j := range req.GetJobs() {
		job := Job{ID: j.GetJobId(), Score: j.GetScore(), Candidates: signed(j.GetCandidates())}
		for _, n := range j.GetNeeds() {
			need := Need{
				Nodes: int(n.GetNodes()), GPUs: int(n.GetGpusPerNode()), CPUs: int(n.GetCpusPerNode()), MemoryMiB: n.GetMemoryMibPerNode(),
				GPUType: n.GetGpuType(),
			}
			for _, p := range n.GetPlaces() {
				need.Places = append(need.Places, Place{
					Node: int(p.GetNode()), GPUs: int(p.GetFreeGpus()), CPUs: int(p.GetFreeCpus()), MemoryMiB: p.GetFreeMemoryMib(), Cards: signed(p.GetGpus()),
				})
			}
			job.Needs = append(job.Needs, need)
		}
		out.Jobs = append(out.Jobs, job)
	}
	for _, c := range req.GetCandidates() {
		candidate := Candidate{
			ID: c.GetJobId(), Size: c.GetSize(), LostS: c.GetLostS(), RestartS: c.GetRestartS(), RunS: c.GetRunS(), Score: c.GetScore(),
			Preempted: c.GetPreempted(),
		}
		for _, h := range c.GetHolds() {
			candidate.Holds = append(candidate.Holds, Holding{
				Node: int(h.GetNode()), Cards: signed(h.GetGpus()), CPUs: int(h.GetCpus()), MemoryMiB: h.GetMemoryMib(),
			})
		}
		out.Candidates = append(out.Candidates, candidate)
	}
	return out
}

// AnswerToProto is an answer as a plugin gives it.
func AnswerToProto(answer []Selection) *pluginv1.SelectVictimsResponse {
	out := &pluginv1.SelectVictimsResponse{}
	for _, s := range answer {
		out.Selections = append(out.Selections, &pluginv1.Selection{
			JobId: s.Job, Need: clamp(s.Need), Victims: s.Victims, Nodes: unsigned(s.Nodes), Reason: s.Reason,
		})
	}
	return out
}

// AnswerFromProto reads a plugin's answer, which remains to be checked.
func AnswerFromProto(resp *pluginv1.SelectVictimsResponse) []Selection {
	out := make([]Selection, 0, len(resp.GetSelections()))
	for _, s := range resp.GetSelections() {
		out = append(out, Selection{
			Job: s.GetJobId(), Need: int(s.GetNeed()), Victims: s.GetVictims(), Nodes: signed(s.GetNodes()), Reason: s.GetReason(),
		})
	}
	return out
}

func clamp(n int) uint32 { return uint32(max(0, min(n, math.MaxInt32))) }

func unsigned(list []int) []uint32 {
	out := make([]uint32, len(list))
	for i, n := range list {
		out[i] = clamp(n)
	}
	return out
}

func signed(list []uint32) []int {
	out := make([]int, len(list))
	for i, n := range list {
		out[i] = int(n)
	}
	return out
}
