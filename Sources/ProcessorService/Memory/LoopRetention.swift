/// How many pages of a loop an address space retains.
///
/// What is run through again and again and is larger than the room would, first in, first out, leave before it is used
/// again, all of it. Retaining a part of it saves that part's faults, but costs the others the room (the trade that LIRS
/// makes; Jiang and Zhang, SIGMETRICS 2002). Whether a retained page is used cannot be seen. So every `turn`th batch is
/// of retained pages, and how many of those come back tells of the others; and who comes back so soon that it would have
/// been here still without them tells what they cost. Every `epoch` departures the two are compared: the bound grows while
/// nothing is lost, and halves where more is lost than won, to be tried again after a pause.
///
/// Owned by the monitor thread. Distances are in departures of the program.
struct LoopRetention {
    /// Pages that may be retained.
    private(set) var pages_max = 0
    /// How much the bound grows next.
    private var step = 0
    /// Epochs until it may grow, and how many that will be the next time.
    private var pause = 0
    private var pause_next = 1
    private var epochStart: UInt64 = 0
    private var batches = 0
    /// Since the epoch began: pages that came back although they had been retained, and pages that would be here still.
    private var returns = 0
    private var lost = 0
    /// Pages that left by turn and have not come back; old ones count less and less.
    private var away = 0.0
    /// Faults that retained pages save, for each departure.
    private var saved = 0.0
    /// What comes back after fewer departures than this has been lost. In units of 64, as a page's departure.
    private var lostWithin: UInt64 = 0

    private static let turn = 32
    private static let epochShare = 8
    private static let stepShare = 16
    private static let epoch_min = 512
    private static let pause_max = 64
    /// A sample of fewer pages says nothing.
    private static let sample_min = 16.0
    /// What is left of the sample after an epoch.
    private static let memory = 0.97
    /// Losses of which nothing is made.
    private static let lostShare_min = 1.0 / 32

    /// Whether the next batch is of retained pages, to see what becomes of them.
    var isTurn: Bool { batches >= Self.turn }

    /// A page that had left comes back.
    @inline(__always)
    mutating func noteReturn(_ entry: PageEntry, distance: UInt64) {
        if entry.isRetained {
            returns += 1
        } else if distance < lostWithin {
            lost += 1
        }
    }

    /// A batch is about to leave.
    mutating func noteBatch(of count: Int, from queue: UInt64) {
        if queue == PageEntry.retained {
            batches = 0
            away += Double(count)
        } else {
            batches += 1
        }
    }

    /// Draws the consequences when an epoch is over.
    mutating func review(departures: UInt64, resident: Int, retained: Int) {
        let count = Int(departures &- epochStart)
        if count < max(Self.epoch_min, resident / Self.epochShare) { return }
        epochStart = departures
        let back = Double(returns)
        let sample = max(away, back)
        let found = sample < Self.sample_min ? 0 : Double(retained) / Double(count) * back / sample
        saved += (found - saved) / 2
        away = (sample - back) * Self.memory
        let lostShare = Double(lost) / Double(count)
        (returns, lost) = (0, 0)
        adjust(lostShare, resident: resident, retained: retained)
        lostWithin = UInt64(Double(retained) / (1 + saved)) / 64
    }

    private mutating func adjust(_ lostShare: Double, resident: Int, retained: Int) {
        if lostShare > max(saved, Self.lostShare_min) {
            pages_max = min(pages_max, retained) / 2
            if pages_max < resident / Self.stepShare / 2 { (pages_max, away) = (0, 0) }
            step = 0
            pause = pause_next
            pause_next = min(Self.pause_max, pause_next * 2)
        } else if pause > 0 {
            pause -= 1
        } else if retained >= pages_max - pages_max / 8 {
            step = step == 0 ? resident / Self.stepShare : min(resident, step * 2)
            pages_max = min(resident, pages_max + step)
            if saved > 2 * lostShare && saved > 2 * Self.lostShare_min { pause_next = 1 }
        }
    }
}
