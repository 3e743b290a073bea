package trace

import "fmt"

// Scale answers a workload and a cluster so many times as large: copies of the jobs, spread over a day and each with projects and
// users of its own names, on as many copies of the nodes. Load and mix stay what they were.
func Scale(jobs []Job, nodes Cluster, times int) ([]Job, Cluster) {
	if times <= 1 {
		return jobs, nodes
	}
	outJobs, outNodes := make([]Job, 0, times*len(jobs)), make(Cluster, 0, times*len(nodes))
	for k := range times {
		mark := fmt.Sprintf("#%d", k)
		for _, j := range jobs {
			j.ID += mark
			j.Row += k * len(jobs)
			j.SubmitS += int64(k) * 86400 / int64(times)
			if j.User != "" {
				j.User += mark
			}
			if j.VC != "" {
				j.VC += mark
			}
			outJobs = append(outJobs, j)
		}
		for _, n := range nodes {
			n.Name += mark
			outNodes = append(outNodes, n)
		}
	}
	Sort(outJobs)
	return outJobs, outNodes
}
