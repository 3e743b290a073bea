package model

// Every bound on what may be asked of fettle, in one place.
const (
	// MaxName bounds a job's name, MaxComment its comment, MaxPath a path, MaxRequestID an idempotency key, in bytes.
	MaxName      = 128
	MaxComment   = 1024
	MaxPath      = 4096
	MaxRequestID = 128
	// MaxMethod, MaxPartition, MaxProject and MaxUser bound these names in bytes.
	MaxMethod    = 64
	MaxPartition = 64
	MaxProject   = 64
	MaxUser      = 256
	// MaxScript bounds a batch script and MaxConfig a training config, in bytes.
	MaxScript = 256 << 10
	MaxConfig = 256 << 10
	// MaxArgs bounds how many arguments a script gets and MaxArgsBytes their total size.
	MaxArgs      = 4096
	MaxArgsBytes = 128 << 10
	// MaxEnv bounds how many variables a job carries and MaxEnvBytes their total size.
	MaxEnv      = 512
	MaxEnvBytes = 64 << 10
	// MaxSet bounds the overrides of training keys and MaxSetBytes their total size.
	MaxSet      = 256
	MaxSetBytes = 64 << 10
	// MaxSpecBytes bounds a whole specification as marshalled, so that a submit always fits in one log entry.
	MaxSpecBytes = 448 << 10

	// MaxNodesPerJob bounds a gang, MaxNodeNames a job's nodelist and its exclude list.
	MaxNodesPerJob = 1024
	MaxNodeNames   = 4096
	// MaxGPUsPerNode bounds what one node may declare and what a job may ask of it.
	MaxGPUsPerNode = 64
	MaxCPUsPerNode = 4096
	// MaxMemMiBPerNode is 64 TiB.
	MaxMemMiBPerNode = 64 << 20
	// MaxTimeLimitS is 30 days; MaxKillGraceS one hour.
	MaxTimeLimitS = 30 * 24 * 3600
	MaxKillGraceS = 3600
	// MaxRetries bounds retries after transient failures.
	MaxRetries = 100
	// MaxBeginMS bounds a begin time as Unix milliseconds (the year 2200), so that sums of times never overflow.
	MaxBeginMS = 7_258_118_400_000

	// MaxEntryBytes bounds one log entry.
	MaxEntryBytes = 512 << 10
	// MaxIDsPerEntry bounds the jobs that one entry may name; larger requests are split by the leader.
	MaxIDsPerEntry = 1000
	// MaxSubmitsPerEntry, MaxPlacementsPerEntry and MaxReportsPerEntry bound the items of these entries;
	// MaxAllocationsPerEntry bounds the nodes of all placements together.
	MaxSubmitsPerEntry     = 1000
	MaxPlacementsPerEntry  = 1000
	MaxReportsPerEntry     = 2048
	MaxAllocationsPerEntry = 8192
	// MaxPurgePerEntry bounds the jobs that one entry may forget.
	MaxPurgePerEntry = 500

	// MaxUnfinished bounds the jobs that are not finished, MaxUnfinishedPerUser those of one user.
	MaxUnfinished        = 250_000
	MaxUnfinishedPerUser = 150_000
	// MaxAttemptsKept bounds the attempts that a job remembers; older ones are dropped, their number is not reused.
	MaxAttemptsKept = 32
	// MaxDetail bounds the one-line details that are stored, in bytes.
	MaxDetail = 512

	// MaxNodes bounds registered nodes, MaxPartitions a policy's partitions, MaxServers the controllers ever known.
	MaxNodes      = 10_000
	MaxPartitions = 256
	MaxServers    = 1024
	// MaxPolicyKeys bounds the scheduling settings of a policy.
	MaxPolicyKeys = 256
	// MaxInventoryBytes bounds a node's inventory as marshalled.
	MaxInventoryBytes = 64 << 10

	// MaxRemembered bounds the remembered answers to writes other than submits, MaxRememberedWeight their size: a job that
	// was done weighs 1, one that was refused RefusalWeight, as its line has to be kept (in units of about 16 bytes).
	MaxRemembered       = 100_000
	MaxRememberedWeight = 2_000_000
	RefusalWeight       = 16
	// MaxRememberedIDs bounds the jobs whose answers one remembered request holds.
	MaxRememberedIDs = 10_000

	// LaunchFailureLimit is how many launches in a row may fail through a node's fault before it is drained.
	LaunchFailureLimit = 3
)

// Back-off after a transient failure: BackoffBaseMS doubled with each failure, at most BackoffCapMS.
const (
	BackoffBaseMS = 10_000
	BackoffCapMS  = 600_000
)

// BackoffMS is how long a job waits after its failures-th transient failure (counted from 1), in milliseconds. Up to a
// tenth is added, fixed by the job's number, so that jobs that failed together do not all come back together.
func BackoffMS(jobID uint64, failures uint32) int64 {
	d := int64(BackoffBaseMS)
	for i := uint32(1); i < failures && d < BackoffCapMS; i++ {
		d *= 2
	}
	d = min(d, BackoffCapMS)
	// Fibonacci hashing spreads neighbouring numbers.
	spread := jobID * 0x9E3779B97F4A7C15 >> 40
	return d + d/10*int64(spread)/(1<<24)
}

// JobLaunchFailureLimit is how many launches of one job in a row may fail through no fault of its user before it is held
// for someone to look at. A launch counts once, on however many nodes it failed, and the job's retries have no say: they
// are for failures of what it runs. It is above LaunchFailureLimit, so that one broken node is drained before it holds up
// a job.
const JobLaunchFailureLimit = 5

// LaunchBackoffMS is how long a job waits after its failed-th launch failure in a row (counted from 1), in milliseconds:
// 1 s doubled with each, at most a minute.
func LaunchBackoffMS(failed int) int64 {
	d := int64(1000)
	for i := 1; i < failed && d < 60_000; i++ {
		d *= 2
	}
	return min(d, 60_000)
}
