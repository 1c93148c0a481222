/*
 * Counts instructions and executed blocks of a guest, for the lab.
 *
 * QEMU loads this as a TCG plugin. What it finds lies in one file that the lab maps too, so that reading it
 * asks nothing of the emulator and a machine that has ended leaves its counts behind:
 *
 *   struct header | instructions by vCPU and level | last epoch of each block | touched blocks | blocks | markers
 *
 * Counting (count=on) is a callback before every instruction: slow, and exact where a block is left in its
 * midst. Coverage (cover=on) is a callback before every block: the first time that a block runs in an epoch, its
 * number goes into a ring. The lab begins a new epoch each time that it reads the ring.
 *
 * QEMU translates a third slower for any plugin that looks at translations. With cover=asked this one does not look
 * until header.asked is set and a vCPU goes to sleep or wakes up, as each does when the lab stops the machine and
 * lets it go on. What had been translated is then translated again, so that nothing that runs later is missed.
 *
 * The plugin API tells no privilege level before version 4, so the level is that of the address: the upper
 * half belongs to the kernel, the firmware's range to the firmware, and all else to programs. A kernel that
 * still runs below, early in its boot, is counted there as a program.
 *
 * With cut=CPU:N as well QEMU kills itself before that vCPU's instruction N + 1: a power cut between two instructions.
 *
 * A marker is an instruction that does nothing on any implementation: see marker_of(). It is not counted.
 *
 * QEMU 7.2 comes without qemu-plugin.h in Debian: the declarations are ours, for versions 1 and later of the API
 * (QEMU, docs/devel/tcg-plugins.rst). What changed between them is looked up when the plugin is loaded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    struct {
        int smp_vcpus, max_vcpus;
    } system;
} plugin_info;
typedef void (*exec_callback)(unsigned vcpu, void *data);

enum { CALLBACK_NO_REGISTERS = 0 };

extern void qemu_plugin_reset(plugin_id, void (*)(plugin_id));
extern void qemu_plugin_register_vcpu_idle_cb(plugin_id, void (*)(plugin_id, unsigned vcpu));
extern void qemu_plugin_register_vcpu_resume_cb(plugin_id, void (*)(plugin_id, unsigned vcpu));
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, exec_callback, int flags, void *);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, exec_callback, int flags, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

/* Versions 1 and 2 give a pointer; version 3 and later copy, and say how much. */
typedef const void *(*insn_data_pointer)(const struct qemu_plugin_insn *);
typedef size_t (*insn_data_copy)(const struct qemu_plugin_insn *, void *, size_t);

/* The version that this plugin was written for, as far as QEMU has it: set before QEMU reads it. */
EXPORT int qemu_plugin_version = 1;

enum { MAGIC = 0x436e6f51, LAYOUT = 2, MOST_VCPUS = 256, LEVELS = 4, MOST_BLOCKS = 1 << 17, MOST_MARKERS = 1 << 14 };
/* Unread numbers of one epoch, and of the one before that its last blocks still went into. */
enum { RING = 2 * MOST_BLOCKS };
enum { KEPT_BYTES = 48, LONGEST_INSN = 16 };
enum level { USER, KERNEL, FIRMWARE };
/* Behind the levels of a vCPU: the longest stretch of kernel instructions with interrupts off, and the one that it is
 * in: see sees_interrupts(). */
enum { LONGEST_STRETCH = 3, STRETCH };

struct block {
    uint64_t address;
    uint32_t size, kept; /* bytes of the block, and how many of them are in `code` */
    uint8_t code[KEPT_BYTES];
};

struct header {
    uint32_t magic, layout, vcpus, levels;
    uint64_t counts_at, epochs_at, touched_at, blocks_at, markers_at, marker_bytes;
    uint64_t most_blocks, most_markers;
    uint64_t blocks, markers; /* used so far; more than the most there can be: the rest is lost */
    uint64_t touched;          /* numbers put into the ring so far */
    uint32_t epoch, asked, covering; /* the lab writes the first two */
};

static struct header *header;
static uint64_t (*counts)[LEVELS * 2]; /* a cache line a vCPU */
static uint32_t *epochs, *touched;
static struct block *blocks;
static uint8_t *markers;
static uint64_t firmware_low, firmware_high;
static bool counting, covering, cutting, waiting, copies_data;
static uint64_t cut_left;
static unsigned cut_vcpu;
static char target;
static void *insn_data;
static uint32_t buckets[2 * MOST_BLOCKS]; /* number of a block plus 1, by hash */
static pthread_mutex_t translating = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void choose_version(void)
{
    if (dlsym(RTLD_DEFAULT, "qemu_plugin_scoreboard_new") != NULL) {
        qemu_plugin_version = 2;
    }
}

/*
 * The number of a marker, or -1. What programs emit (rt::marker):
 *   x86_64   nopl 0x716f70NN(%rax)   a no-op with an address that is never used (Intel SDM vol. 2B, NOP)
 *   aarch64  movz xzr, #0x70NN       the result goes to the zero register (Arm ARM, C6.2 MOVZ)
 *   riscv64  slti x0, x0, 0x7NN      a hint for custom use (RISC-V Unprivileged ISA, 2.9)
 */
static int marker_of(const uint8_t *code, size_t size)
{
    uint32_t word = 0;
    if (target == 'x') {
        static const uint8_t start[] = {0x0f, 0x1f, 0x80};
        bool ours = size == 7 && memcmp(code, start, 3) == 0 && code[4] == 0x70 && code[5] == 0x6f && code[6] == 0x71;
        return ours ? code[3] : -1;
    }
    if (size != 4) {
        return -1;
    }
    memcpy(&word, code, 4);
    if (target == 'a') {
        return (word & 0xffffe01f) == 0xd28e001f ? (int)(word >> 5 & 0xff) : -1;
    }
    return (word & 0xf00fffff) == 0x70002013 ? (int)(word >> 20 & 0xff) : -1;
}

/*
 * Where a kernel with interrupts off sees those that are pending, or lets them in. One that comes at the return to a
 * program comes before the program's next instruction.
 *   x86_64   hlt, sti, iretq, sysretq (Intel SDM vol. 2A, 2B)
 *   aarch64  wfi, eret; mrs ISR_EL1 (Arm ARM, C6.2, D17.2.70)
 *   riscv64  wfi, sret; csrr sip (RISC-V Privileged ISA, 3.3.2, 3.3.3, 4.1.3)
 * A kernel that returns from a fault of its own sees none, and counts as if it did.
 */
static bool sees_interrupts(const uint8_t *code, size_t size)
{
    uint32_t word;
    if (target == 'x') {
        bool is_return = (size == 2 && code[0] == 0x48 && code[1] == 0xcf) ||
                         (size == 3 && code[0] == 0x48 && code[1] == 0x0f && code[2] == 0x07);
        return is_return || (size == 1 && (code[0] == 0xf4 || code[0] == 0xfb));
    }
    if (size != 4) {
        return false;
    }
    memcpy(&word, code, 4);
    if (target == 'a') {
        return word == 0xd503207f || word == 0xd69f03e0 || (word & 0xffffffe0) == 0xd538c100;
    }
    return word == 0x10500073 || word == 0x10200073 || (word & 0xfffff07f) == 0x14402073;
}

static enum level level_of(uint64_t address)
{
    if (address >> 63) {
        return KERNEL;
    }
    return address >= firmware_low && address < firmware_high ? FIRMWARE : USER;
}

static void on_instruction(unsigned vcpu, void *level)
{
    uint64_t *own = counts[vcpu];
    own[(uintptr_t)level]++;
    if ((uintptr_t)level == USER) {
        own[STRETCH] = 0;
    } else if ((uintptr_t)level == KERNEL && ++own[STRETCH] > own[LONGEST_STRETCH]) {
        own[LONGEST_STRETCH] = own[STRETCH];
    }
}

static void on_look(unsigned vcpu, void *level)
{
    on_instruction(vcpu, level);
    counts[vcpu][STRETCH] = 0;
}

static void on_instruction_or_cut(unsigned vcpu, void *level)
{
    if (vcpu == cut_vcpu && cut_left-- == 0) {
        kill(getpid(), SIGKILL); /* this thread does not come back from it (signal(7)) */
    }
    on_instruction(vcpu, level);
}

/* A number plus one is written after its place is taken: a reader finds zero where that is still to come. */
static void on_block(unsigned vcpu, void *place)
{
    (void)vcpu;
    uint32_t *last = place, epoch = __atomic_load_n(&header->epoch, __ATOMIC_RELAXED);
    if (__atomic_load_n(last, __ATOMIC_RELAXED) == epoch || __atomic_exchange_n(last, epoch, __ATOMIC_RELAXED) == epoch) {
        return;
    }
    uint64_t at = __atomic_fetch_add(&header->touched, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&touched[at % RING], (uint32_t)(last - epochs) + 1, __ATOMIC_RELEASE);
}

/* A record is the marker's number plus one, the vCPU, and the counts of each vCPU. The number is written last, so
 * that a reader knows a whole record. */
static void on_marker(unsigned vcpu, void *number)
{
    uint64_t place = __atomic_fetch_add(&header->markers, 1, __ATOMIC_RELAXED);
    if (place >= MOST_MARKERS) {
        return;
    }
    uint8_t *record = markers + place * header->marker_bytes;
    for (unsigned cpu = 0; cpu < header->vcpus; cpu++) {
        memcpy(record + 8 + cpu * LEVELS * sizeof(uint64_t), counts[cpu], LEVELS * sizeof(uint64_t));
    }
    memcpy(record + 4, &vcpu, 4);
    __atomic_store_n((uint32_t *)record, (uint32_t)(uintptr_t)number + 1, __ATOMIC_RELEASE);
}

static size_t code_of(const struct qemu_plugin_insn *insn, uint8_t code[LONGEST_INSN])
{
    size_t size = qemu_plugin_insn_size(insn);
    if (size > LONGEST_INSN) {
        size = LONGEST_INSN;
    }
    if (copies_data) {
        return ((insn_data_copy)insn_data)(insn, code, size);
    }
    memcpy(code, ((insn_data_pointer)insn_data)(insn), size);
    return size;
}

/* Where the last epoch of this block stands; NULL when there are too many. The same code at the same address is
 * the same block, however often QEMU translates it. */
static uint32_t *epoch_of(const struct block *found)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a, by words, whose upper bits must reach the lower ones */
    uint64_t words[sizeof *found / sizeof(uint64_t)];
    memcpy(words, found, sizeof words);
    for (size_t at = 0; at < sizeof words / sizeof *words; at++) {
        hash = (hash ^ words[at]) * 0x100000001b3;
        hash ^= hash >> 32;
    }
    pthread_mutex_lock(&translating);
    size_t bucket = hash % (2 * MOST_BLOCKS);
    while (buckets[bucket] != 0 && memcmp(&blocks[buckets[bucket] - 1], found, sizeof *found) != 0) {
        bucket = (bucket + 1) % (2 * MOST_BLOCKS);
    }
    uint32_t *place = NULL;
    if (buckets[bucket] != 0) {
        place = &epochs[buckets[bucket] - 1];
    } else if (header->blocks < MOST_BLOCKS) {
        uint64_t number = header->blocks;
        blocks[number] = *found;
        buckets[bucket] = (uint32_t)number + 1;
        place = &epochs[number];
        __atomic_store_n(&header->blocks, number + 1, __ATOMIC_RELEASE);
    } else {
        header->blocks++;
    }
    pthread_mutex_unlock(&translating);
    return place;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block block;
    memset(&block, 0, sizeof block);
    size_t length = qemu_plugin_tb_n_insns(tb);
    for (size_t at = 0; at < length; at++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, at);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        uint8_t code[LONGEST_INSN];
        size_t size = code_of(insn, code);
        if (at == 0) {
            block.address = address;
        }
        block.size += (uint32_t)size;
        if (block.kept + size <= KEPT_BYTES) {
            memcpy(block.code + block.kept, code, size);
            block.kept += (uint32_t)size;
        }
        int number = counting ? marker_of(code, size) : -1;
        if (number >= 0) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_marker, CALLBACK_NO_REGISTERS, (void *)(uintptr_t)number);
        } else if (counting) {
            void *level = (void *)(uintptr_t)level_of(address);
            exec_callback callback = cutting ? on_instruction_or_cut : sees_interrupts(code, size) ? on_look : on_instruction;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, CALLBACK_NO_REGISTERS, level);
        }
    }
    uint32_t *place = covering && length > 0 ? epoch_of(&block) : NULL;
    if (place != NULL) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CALLBACK_NO_REGISTERS, place);
    }
}

/* All vCPUs stand still, and no translated code is left. */
static void begin_covering(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    __atomic_store_n(&header->covering, 1, __ATOMIC_RELEASE);
}

static void on_idle_or_resume(plugin_id id, unsigned vcpu)
{
    static bool begun;
    (void)vcpu;
    if (__atomic_load_n(&header->asked, __ATOMIC_ACQUIRE) != 0 && !__atomic_exchange_n(&begun, true, __ATOMIC_RELAXED)) {
        qemu_plugin_reset(id, begin_covering);
    }
}

static int map_results(const char *path, unsigned vcpus)
{
    struct header wanted = {.magic = MAGIC, .layout = LAYOUT, .vcpus = vcpus, .levels = LEVELS, .epoch = 1};
    wanted.counts_at = 4096;
    wanted.epochs_at = wanted.counts_at + MOST_VCPUS * sizeof *counts;
    wanted.touched_at = wanted.epochs_at + MOST_BLOCKS * sizeof *epochs;
    wanted.blocks_at = wanted.touched_at + RING * sizeof *touched;
    wanted.markers_at = wanted.blocks_at + MOST_BLOCKS * sizeof *blocks;
    wanted.marker_bytes = 8 + vcpus * LEVELS * sizeof(uint64_t);
    wanted.most_blocks = MOST_BLOCKS;
    wanted.most_markers = MOST_MARKERS;
    size_t size = wanted.markers_at + MOST_MARKERS * wanted.marker_bytes;
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    uint8_t *base = MAP_FAILED;
    if (file >= 0 && ftruncate(file, (off_t)size) == 0) {
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    if (base == MAP_FAILED) {
        fprintf(stderr, "quoin_count: %s cannot be made and mapped (%zu bytes): %m\n", path, size);
        return -1;
    }
    close(file);
    header = (struct header *)base;
    *header = wanted;
    counts = (uint64_t(*)[LEVELS * 2])(base + wanted.counts_at);
    epochs = (uint32_t *)(base + wanted.epochs_at);
    touched = (uint32_t *)(base + wanted.touched_at);
    blocks = (struct block *)(base + wanted.blocks_at);
    markers = base + wanted.markers_at;
    return 0;
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int argc, char **argv)
{
    const char *path = NULL;
    for (int at = 0; at < argc; at++) {
        unsigned long long low, high;
        if (strncmp(argv[at], "to=", 3) == 0) {
            path = argv[at] + 3;
        } else if (strcmp(argv[at], "count=on") == 0) {
            counting = true;
        } else if (sscanf(argv[at], "cut=%u:%llu", &cut_vcpu, &low) == 2) {
            cutting = true;
            cut_left = low;
        } else if (strcmp(argv[at], "cover=on") == 0) {
            covering = true;
        } else if (strcmp(argv[at], "cover=asked") == 0) {
            covering = waiting = true;
        } else if (sscanf(argv[at], "firmware=%llx-%llx", &low, &high) == 2) {
            firmware_low = low;
            firmware_high = high;
        } else {
            fprintf(stderr, "quoin_count: unknown argument %s\n", argv[at]);
            return -1;
        }
    }
    target = info->target_name[0];
    insn_data = dlsym(RTLD_DEFAULT, "qemu_plugin_insn_data");
    copies_data = info->version.cur >= 3;
    if (path == NULL || insn_data == NULL || info->system.max_vcpus > MOST_VCPUS) {
        fprintf(stderr, "quoin_count: wants to=PATH, at most %d vCPUs and QEMU's plugin API\n", MOST_VCPUS);
        return -1;
    }
    if (map_results(path, (unsigned)info->system.smp_vcpus) != 0) {
        return -1;
    }
    if (waiting && !counting) {
        qemu_plugin_register_vcpu_idle_cb(id, on_idle_or_resume);
        qemu_plugin_register_vcpu_resume_cb(id, on_idle_or_resume);
    } else {
        begin_covering(id);
    }
    return 0;
}
