/* A management library as small as none ever was: one GPU, and hardly a function to ask about it. What it lacks must not be
 * called. Built by the tests with -DINIT=n, -DHANG or -DCRASH for libraries in trouble. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef INIT
#define INIT 0
#endif

struct device { int number; };
static struct device only;

struct memory { unsigned long long total, free, used; };

int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int ret) { return ret == 4 ? "Insufficient Permissions" : "Some Error"; }

int nvmlDeviceGetCount_v2(unsigned *n)
{
#ifdef HANG
	for (;;)
		pause();
#endif
#ifdef CRASH
	*(volatile int *)0 = 1;
#endif
	*n = 1;
	return 0;
}
int nvmlDeviceGetCount(unsigned *n) { return nvmlDeviceGetCount_v2(n); }

int nvmlDeviceGetHandleByIndex_v2(unsigned i, struct device **d)
{
	if (i > 0)
		return 2;
	*d = &only;
	return 0;
}
int nvmlDeviceGetHandleByIndex(unsigned i, struct device **d) { return nvmlDeviceGetHandleByIndex_v2(i, d); }

int nvmlDeviceGetUUID(struct device *d, char *out, unsigned len)
{
	snprintf(out, len, "GPU-0a1b2c3d-0000-1111-2222-333344445555");
	return d == &only ? 0 : 2;
}

int nvmlDeviceGetName(struct device *d, char *out, unsigned len)
{
	snprintf(out, len, "Tesla P100-PCIE-16GB");
	return d == &only ? 0 : 2;
}

int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *m)
{
	m->total = 16ull << 30;
	m->used = 1ull << 30;
	m->free = m->total - m->used;
	return d == &only ? 0 : 2;
}
