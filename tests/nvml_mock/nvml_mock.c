/*
 * A libnvidia-ml.so.1 without GPUs: answers NVML's public calls from a text file.
 *
 * The file is named by NVML_MOCK and read again whenever it was replaced. Without it there is no driver.
 * One item a line, columns separated by blanks (written by build.py):
 *
 *   driver <loaded 0|1> <version> <cuda, 12020>
 *   gpu    <index> <uuid> <minor> <bus id> <memory bytes> <cc major> <cc minor> <mig -1 none|0 off|1 on> <lost 0|1>
 *          <recovery action, -1 unreported> <remap pending> <remap failed> <retirement pending> <uncorrected errors>
 *          <fabric cluster, 32 hex digits> <fabric clique> <reports events 0|1> <power limit in mW, 0 unsupported>
 *          <name to the end of the line>
 *   link   <gpu> <link> <remote type 0 GPU|2 switch> <remote bus id>
 *   mig    <gpu> <n> <uuid> <gi> <ci> <GI profile, NVML_GPU_INSTANCE_PROFILE_*> <MiB> <SMs> <GI slices> <CI slices>
 *          <copy engines> <decoders> <encoders> <JPEG engines> <OFA engines>
 *   event  <sequence number> <gpu> <xid> <gi, 4294967295 none> <ci, 4294967295 none>
 *   wait   <what nvmlEventSetWait returns, 0 as usual>
 *
 * The structures are NVML's public ABI.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, UNKNOWN = 999 };
enum { MAX_GPUS = 16, MAX_MIG = 8, MAX_LINKS = 36, MAX_SETS = 64, MAX_EVENTS = 256 };
#define XID_CRITICAL_ERROR 8ULL
#define NO_INSTANCE 0xFFFFFFFFu
#define GET_GPU_RECOVERY_ACTION 230u

typedef struct { char uuid[96]; unsigned gi, ci, profile, sm, gi_slices, ci_slices, ce, dec, enc, jpeg, ofa;
                 unsigned long long mib; } Mig;
typedef struct { int type; char bus[32]; int present; } Link;
typedef struct { char uuid[96], name[96], bus[32], cluster[33]; int present, mig_mode, lost, recovery;
                 unsigned minor, remap_pending, remap_failed, retirement, clique, events, milliwatts;
                 unsigned long long memory, uncorrected; int cc_major, cc_minor;
                 Mig mig[MAX_MIG]; int migs; Link link[MAX_LINKS]; int links; } Gpu;
typedef struct { long sequence; int gpu; unsigned long long xid; unsigned gi, ci; } Event;
typedef struct { int used; unsigned gpus; long seen; } Set;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Gpu gpus[MAX_GPUS];
static Event events[MAX_EVENTS];
static Set sets[MAX_SETS];
static int gpu_count, event_count, loaded, wait_result, initialised;
static unsigned cuda;
static char driver[80];
static struct stat last;
/* A handle is the address of one of these. */
static char gpu_handle[MAX_GPUS], mig_handle[MAX_GPUS][MAX_MIG], instance_handle[MAX_GPUS][32];

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } PciInfo;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned sm, ce, dec, enc, jpeg, ofa, gi_slices, ci_slices; unsigned long long mib; } Attributes;
typedef struct { void *device; unsigned id, profile_id, start, size; } InstanceInfo;
typedef struct { unsigned id, p2p, slices, instances, sm, ce, dec, enc, jpeg, ofa; unsigned long long mib; } ProfileInfo;
typedef struct { unsigned char cluster[16]; int status; unsigned clique, state; } Fabric;
typedef struct { unsigned version; Fabric fabric; unsigned health; } FabricV;
typedef struct { unsigned field, scope; int64_t timestamp, latency; unsigned type; int result;
                 union { double d; unsigned u; unsigned long long ull; } value; } FieldValue;
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } EventData;

static void parse(FILE *file)
{
    char line[512];
    memset(gpus, 0, sizeof gpus);
    gpu_count = event_count = loaded = wait_result = 0;
    while (fgets(line, sizeof line, file)) {
        int n, m, offset = 0;
        if (sscanf(line, "driver %d %79s %u", &loaded, driver, &cuda) == 3 || sscanf(line, "wait %d", &wait_result) == 1)
            continue;
        if (sscanf(line, "gpu %d %n", &n, &offset) == 1 && n < MAX_GPUS) {
            Gpu *g = &gpus[n];
            int name = 0;
            if (sscanf(line + offset, "%95s %u %31s %llu %d %d %d %d %d %u %u %u %llu %32s %u %u %u %n", g->uuid,
                       &g->minor, g->bus, &g->memory, &g->cc_major, &g->cc_minor, &g->mig_mode, &g->lost,
                       &g->recovery, &g->remap_pending, &g->remap_failed, &g->retirement, &g->uncorrected,
                       g->cluster, &g->clique, &g->events, &g->milliwatts, &name) != 17)
                abort();
            snprintf(g->name, sizeof g->name, "%.*s", (int)strcspn(line + offset + name, "\n"), line + offset + name);
            g->present = 1;
            if (n >= gpu_count) gpu_count = n + 1;
        } else if (sscanf(line, "link %d %d %n", &n, &m, &offset) == 2 && n < MAX_GPUS && m < MAX_LINKS) {
            Link *l = &gpus[n].link[m];
            if (sscanf(line + offset, "%d %31s", &l->type, l->bus) != 2) abort();
            l->present = 1;
            if (m >= gpus[n].links) gpus[n].links = m + 1;
        } else if (sscanf(line, "mig %d %d %n", &n, &m, &offset) == 2 && n < MAX_GPUS && m < MAX_MIG) {
            Mig *i = &gpus[n].mig[m];
            if (sscanf(line + offset, "%95s %u %u %u %llu %u %u %u %u %u %u %u %u", i->uuid, &i->gi, &i->ci,
                       &i->profile, &i->mib, &i->sm, &i->gi_slices, &i->ci_slices, &i->ce, &i->dec, &i->enc,
                       &i->jpeg, &i->ofa) != 13)
                abort();
            if (m >= gpus[n].migs) gpus[n].migs = m + 1;
        } else if (event_count < MAX_EVENTS) {
            Event *e = &events[event_count];
            if (sscanf(line, "event %ld %d %llu %u %u", &e->sequence, &e->gpu, &e->xid, &e->gi, &e->ci) == 5)
                event_count++;
        }
    }
}

static void reload(void)
{
    const char *path = getenv("NVML_MOCK");
    struct stat now;
    if (!path || stat(path, &now)) {
        loaded = 0;
        memset(&last, 0, sizeof last);
        return;
    }
    if (now.st_ino == last.st_ino && now.st_dev == last.st_dev && now.st_size == last.st_size &&
        now.st_mtim.tv_sec == last.st_mtim.tv_sec && now.st_mtim.tv_nsec == last.st_mtim.tv_nsec)
        return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    parse(file);
    fclose(file);
    last = now;
}

/* Every call: under the lock, with the file as it is now. */
static int enter(void)
{
    pthread_mutex_lock(&lock);
    reload();
    return !initialised ? UNINITIALIZED : !loaded ? DRIVER_NOT_LOADED : SUCCESS;
}

static int leave(int result) { pthread_mutex_unlock(&lock); return result; }

static int gpu_of(const void *handle)
{
    const char *h = handle;
    return h >= gpu_handle && h < gpu_handle + MAX_GPUS ? (int)(h - gpu_handle) : -1;
}

static Mig *mig_of(const void *handle, int *gpu)
{
    const char *h = handle, *first = &mig_handle[0][0];
    if (h < first || h >= first + sizeof mig_handle) return NULL;
    *gpu = (int)((h - first) / MAX_MIG);
    int n = (int)((h - first) % MAX_MIG);
    return n < gpus[*gpu].migs && gpus[*gpu].mig[n].uuid[0] ? &gpus[*gpu].mig[n] : NULL;
}

static int answers(int n)
{
    if (n < 0 || n >= gpu_count || !gpus[n].present) return NOT_FOUND;
    return gpus[n].lost ? GPU_IS_LOST : SUCCESS;
}

/* The physical GPU behind a handle of either kind. */
#define BEGIN(handle)                                                                                                  \
    int result = enter(), n = gpu_of(handle);                                                                          \
    Mig *mig = NULL;                                                                                                   \
    if (n < 0) mig = mig_of(handle, &n);                                                                               \
    (void)mig;                                                                                                         \
    if (!result) result = answers(n);                                                                                  \
    if (result) return leave(result);                                                                                  \
    Gpu *g = &gpus[n];                                                                                                 \
    (void)g

static int text(char *to, unsigned size, const char *from)
{
    if (strlen(from) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

static int initialise(void)
{
    pthread_mutex_lock(&lock);
    reload();
    if (!loaded) return leave(DRIVER_NOT_LOADED);
    initialised++;
    return leave(SUCCESS);
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return initialise(); }
int nvmlInit_v2(void) { return initialise(); }
int nvmlInit(void) { return initialise(); }

int nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    if (!initialised) return leave(UNINITIALIZED);
    if (--initialised == 0) memset(sets, 0, sizeof sets);
    return leave(SUCCESS);
}

const char *nvmlErrorString(int result) { (void)result; return "error of the mock NVML"; }

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    int result = enter();
    return leave(result ? result : text(version, size, driver));
}

int nvmlSystemGetNVMLVersion(char *version, unsigned size) { return text(version, size, "13.0"); }

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    int result = enter();
    *version = (int)cuda;
    return leave(result);
}

int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int result = enter();
    *count = (unsigned)gpu_count;
    return leave(result);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    int result = enter();
    if (!result) result = index < (unsigned)gpu_count ? answers((int)index) : INVALID_ARGUMENT;
    if (!result) *handle = &gpu_handle[index];
    return leave(result);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    int result = enter();
    if (result) return leave(result);
    for (int n = 0; n < gpu_count; n++) {
        if (!strcmp(gpus[n].uuid, uuid)) {
            *handle = &gpu_handle[n];
            return leave(answers(n));
        }
        for (int m = 0; m < gpus[n].migs; m++)
            if (!strcmp(gpus[n].mig[m].uuid, uuid)) {
                *handle = &mig_handle[n][m];
                return leave(answers(n));
            }
    }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle)
{
    int result = enter();
    if (result) return leave(result);
    for (int n = 0; n < gpu_count; n++)
        if (!strcasecmp(gpus[n].bus, bus)) {
            *handle = &gpu_handle[n];
            return leave(answers(n));
        }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size)
{
    BEGIN(handle);
    return leave(text(uuid, size, mig ? mig->uuid : g->uuid));
}

int nvmlDeviceGetName(void *handle, char *name, unsigned size) { BEGIN(handle); return leave(text(name, size, g->name)); }
int nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) { BEGIN(handle); *minor = g->minor; return leave(SUCCESS); }
int nvmlDeviceGetIndex(void *handle, unsigned *index) { BEGIN(handle); *index = (unsigned)n; return leave(SUCCESS); }

int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory)
{
    BEGIN(handle);
    memory->total = memory->free = mig ? mig->mib << 20 : g->memory;
    memory->used = 0;
    return leave(SUCCESS);
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, MemoryV2 *memory)
{
    BEGIN(handle);
    memory->total = memory->free = mig ? mig->mib << 20 : g->memory;
    memory->used = memory->reserved = 0;
    return leave(SUCCESS);
}

static void pci(PciInfo *info, const char *bus)
{
    memset(info, 0, sizeof *info);
    sscanf(bus, "%x:%x:%x", &info->domain, &info->bus, &info->device);
    snprintf(info->legacy, sizeof info->legacy, "%04X:%02X:%02X.0", info->domain & 0xFFFF, info->bus & 0xFF,
             info->device & 0xFF);
    snprintf(info->bus_id, sizeof info->bus_id, "%s", bus);
}

int nvmlDeviceGetPciInfo_v3(void *handle, PciInfo *info) { BEGIN(handle); pci(info, g->bus); return leave(SUCCESS); }

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    BEGIN(handle);
    *major = g->cc_major;
    *minor = g->cc_minor;
    return leave(SUCCESS);
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts)
{
    BEGIN(handle);
    if (mig || !g->milliwatts) return leave(NOT_SUPPORTED);
    *milliwatts = g->milliwatts;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    BEGIN(handle);
    if (g->mig_mode < 0) return leave(NOT_SUPPORTED);
    *current = *pending = (unsigned)g->mig_mode;
    return leave(SUCCESS);
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count)
{
    BEGIN(handle);
    *count = g->mig_mode < 0 ? 0 : 7;
    return leave(SUCCESS);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **mig_device)
{
    BEGIN(handle);
    if (index >= (unsigned)g->migs || !g->mig[index].uuid[0]) return leave(NOT_FOUND);
    *mig_device = &mig_handle[n][index];
    return leave(SUCCESS);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **device)
{
    BEGIN(handle);
    if (!mig) return leave(INVALID_ARGUMENT);
    *device = &gpu_handle[n];
    return leave(SUCCESS);
}

int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is_mig) { BEGIN(handle); *is_mig = mig != NULL; return leave(SUCCESS); }

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id)
{
    BEGIN(handle);
    if (mig) *id = mig->gi;
    return leave(mig ? SUCCESS : NOT_FOUND);
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id)
{
    BEGIN(handle);
    if (mig) *id = mig->ci;
    return leave(mig ? SUCCESS : NOT_FOUND);
}

int nvmlDeviceGetAttributes_v2(void *handle, Attributes *a)
{
    BEGIN(handle);
    if (!mig) return leave(NOT_SUPPORTED);
    *a = (Attributes){mig->sm, mig->ce, mig->dec, mig->enc, mig->jpeg, mig->ofa, mig->gi_slices, mig->ci_slices, mig->mib};
    return leave(SUCCESS);
}

/* The ids that an A100 and an H100 give to NVML's profile numbers. */
static int profile_id(unsigned number)
{
    static const int ids[] = {19, 14, 9, 5, 0, -1, -1, 20, -1, 15};
    return number < sizeof ids / sizeof *ids ? ids[number] : -1;
}

int nvmlDeviceGetGpuInstanceById(void *handle, unsigned id, void **instance)
{
    BEGIN(handle);
    for (int m = 0; m < g->migs; m++)
        if (g->mig[m].uuid[0] && g->mig[m].gi == id && id < 32) {
            *instance = &instance_handle[n][id];
            return leave(SUCCESS);
        }
    return leave(NOT_FOUND);
}

int nvmlGpuInstanceGetInfo(void *instance, InstanceInfo *info)
{
    int result = enter();
    if (result) return leave(result);
    long offset = (char *)instance - &instance_handle[0][0];
    if (offset < 0 || offset >= (long)sizeof instance_handle) return leave(INVALID_ARGUMENT);
    Gpu *g = &gpus[offset / 32];
    for (int m = 0; m < g->migs; m++)
        if (g->mig[m].uuid[0] && g->mig[m].gi == (unsigned)(offset % 32)) {
            *info = (InstanceInfo){&gpu_handle[offset / 32], g->mig[m].gi, (unsigned)profile_id(g->mig[m].profile), 0, 0};
            return leave(SUCCESS);
        }
    return leave(NOT_FOUND);
}

int nvmlDeviceGetGpuInstanceProfileInfo(void *handle, unsigned profile, ProfileInfo *info)
{
    BEGIN(handle);
    if (g->mig_mode < 0 || profile_id(profile) < 0) return leave(NOT_SUPPORTED);
    memset(info, 0, sizeof *info);
    info->id = (unsigned)profile_id(profile);
    return leave(SUCCESS);
}

static int fabric(const Gpu *g, Fabric *f)
{
    memset(f, 0, sizeof *f);
    for (int i = 0; i < 16; i++) {
        unsigned byte = 0;
        sscanf(g->cluster + 2 * i, "%2x", &byte);
        f->cluster[i] = (unsigned char)byte;
        f->state |= byte ? 3 : 0;
    }
    f->clique = g->clique;
    return SUCCESS;
}

int nvmlDeviceGetGpuFabricInfo(void *handle, Fabric *f) { BEGIN(handle); return leave(fabric(g, f)); }
int nvmlDeviceGetGpuFabricInfoV(void *handle, FabricV *f) { BEGIN(handle); return leave(fabric(g, &f->fabric)); }

static Link *link_of(Gpu *g, unsigned link, int *result)
{
    *result = !g->links ? NOT_SUPPORTED : link >= (unsigned)g->links ? INVALID_ARGUMENT : SUCCESS;
    return *result ? NULL : &g->link[link];
}

int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *active)
{
    BEGIN(handle);
    Link *l = link_of(g, link, &result);
    if (l) *active = (unsigned)l->present;
    return leave(result);
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, unsigned *type)
{
    BEGIN(handle);
    Link *l = link_of(g, link, &result);
    if (l) *type = (unsigned)l->type;
    return leave(result);
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, PciInfo *info)
{
    BEGIN(handle);
    Link *l = link_of(g, link, &result);
    if (l) pci(info, l->bus);
    return leave(result);
}

int nvmlDeviceGetNvLinkVersion(void *handle, unsigned link, unsigned *version)
{
    BEGIN(handle);
    link_of(g, link, &result);
    *version = g->cc_major >= 9 ? 6 : g->cc_major == 8 ? 5 : 2;
    return leave(result);
}

int nvmlDeviceGetFieldValues(void *handle, int count, FieldValue *values)
{
    BEGIN(handle);
    for (int i = 0; i < count; i++) {
        values[i].result = values[i].field == GET_GPU_RECOVERY_ACTION && g->recovery >= 0 ? SUCCESS : NOT_SUPPORTED;
        values[i].type = 1;
        values[i].value.ull = 0;
        if (!values[i].result) values[i].value.u = (unsigned)g->recovery;
    }
    return leave(SUCCESS);
}

int nvmlDeviceGetRemappedRows(void *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed)
{
    BEGIN(handle);
    if (g->cc_major < 8) return leave(NOT_SUPPORTED);
    *corrected = *uncorrected = 0;
    *pending = g->remap_pending;
    *failed = g->remap_failed;
    return leave(SUCCESS);
}

int nvmlDeviceGetRetiredPagesPendingStatus(void *handle, unsigned *pending)
{
    BEGIN(handle);
    *pending = g->retirement;
    return leave(SUCCESS);
}

int nvmlDeviceGetTotalEccErrors(void *handle, unsigned type, unsigned counter, unsigned long long *count)
{
    BEGIN(handle);
    *count = type == 1 && counter == 0 ? g->uncorrected : 0;
    return leave(SUCCESS);
}

static long latest(void)
{
    long sequence = 0;
    for (int i = 0; i < event_count; i++)
        if (events[i].sequence > sequence) sequence = events[i].sequence;
    return sequence;
}

int nvmlEventSetCreate(void **set)
{
    int result = enter();
    if (result) return leave(result);
    for (int i = 0; i < MAX_SETS; i++)
        if (!sets[i].used) {
            sets[i] = (Set){1, 0, latest()};
            *set = &sets[i];
            return leave(SUCCESS);
        }
    return leave(UNKNOWN);
}

int nvmlEventSetFree(Set *set)
{
    int result = enter();
    if (!result) set->used = 0;
    return leave(result);
}

int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *types)
{
    BEGIN(handle);
    *types = g->events ? XID_CRITICAL_ERROR | 3 : 0;
    return leave(SUCCESS);
}

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, Set *set)
{
    BEGIN(handle);
    if (!g->events) return leave(NOT_SUPPORTED);
    if (types & XID_CRITICAL_ERROR) set->gpus |= 1u << n;
    return leave(SUCCESS);
}

/* The oldest event that the set has not yet delivered, a failure, or TIMEOUT. */
static int next_event(Set *set, EventData *data)
{
    if (wait_result) return wait_result;
    Event *next = NULL;
    for (int i = 0; i < event_count; i++)
        if (events[i].sequence > set->seen && set->gpus >> events[i].gpu & 1 &&
            (!next || events[i].sequence < next->sequence))
            next = &events[i];
    if (next) {
        set->seen = next->sequence;
        *data = (EventData){&gpu_handle[next->gpu], XID_CRITICAL_ERROR, next->xid, next->gi, next->ci};
        return SUCCESS;
    }
    for (int n = 0; n < gpu_count; n++)
        if (set->gpus >> n & 1 && gpus[n].lost) return GPU_IS_LOST;
    return TIMEOUT;
}

int nvmlEventSetWait_v2(Set *set, EventData *data, unsigned milliseconds)
{
    const unsigned step = 5;
    for (unsigned waited = 0;; waited += step) {
        int result = enter();
        if (!result) result = set->used ? next_event(set, data) : INVALID_ARGUMENT;
        leave(result);
        if (result != TIMEOUT || waited >= milliseconds) return result;
        nanosleep(&(struct timespec){0, step * 1000000L}, NULL);
    }
}
