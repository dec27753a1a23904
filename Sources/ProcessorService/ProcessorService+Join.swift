import CLinux
import Glibc
import Kernel
import Lite
import Wire

// Processes that join a program (`legoctl exec`).
extension ProcessorService {
    /// On a worker of the node.
    func join(_ request: ManagerProcessorJoin) -> (Status, ProcessorManagerStarted?) {
        guard let program = table[request.program], let life = program.life else {
            return Self.refusal(.notFound, "program \(request.program) has ended already")
        }
        do throws(SandboxFailure) {
            try join(program, life, request)
            return (.ok, ProcessorManagerStarted(reason: "", exitStatus: 0))
        } catch {
            logger.info("join refused", metadata: ["program": "\(request.program)", "reason": "\(error.reason)"])
            return Self.refusal(error)
        }
    }

    private func join(_ program: Program, _ life: Program.Life, _ request: ManagerProcessorJoin)
        throws(SandboxFailure)
    {
        hooks.refreshTree()
        var plan = program.plan
        plan.arguments = request.arguments
        plan.environment = Self.merge(plan.environment, with: request.environment)
        plan.terminal = request.terminal
        if !request.workingDirectory.isEmpty { plan.workingDirectory = request.workingDirectory }
        let joined: JoinedProgram
        var streams: StreamSet
        do {
            joined = try JoinedProgram(program: program.id, token: request.attachToken)
            streams = try plan.terminal != nil ? .none() : .pipes()
        } catch { throw SandboxFailure(error, during: "standard streams") }
        if !program.add(joined) {
            throw SandboxFailure("\(Program.joined_max) processes have joined program \(program.id) already")
        }
        do throws(SandboxFailure) {
            var process = try life.sandbox.join(plan: plan, streams: streams.program, limit: Self.setupLimit)
            if let listener = process.takeListener() { life.memory.join(listener) }
            do {
                if let master = process.takeTerminal() { streams.daemon = try .terminal(master) }
                joined.runs(on: try thread(of: program, joined, process, streams.daemon))
            } catch { throw SandboxFailure(error, during: "its thread") }
        } catch {
            program.remove(joined)
            throw error
        }
    }

    private func thread(
        of program: Program, _ joined: JoinedProgram, _ process: consuming JoinedProcess,
        _ streams: consuming DaemonStreams
    ) throws(KernelError) -> KernelThread {
        let handover = Handover(process)
        let streamHandover = Handover(streams)
        let limit = configuration.attachLimit
        return try KernelThread(name: "lego-joined") {
            guard let process = handover.take(), let streams = streamHandover.take() else { return }
            var loop = JoinedLoop(joined, process, streams: streams, attachLimit: limit)
            loop.run()
            program.remove(joined)
        }
    }

    /// The program's variables with others in place of theirs.
    private static func merge(_ own: [String], with others: [String]) -> [String] {
        let names = Set(others.map { $0.prefix { $0 != "=" } })
        return own.filter { !names.contains($0.prefix { $0 != "=" }) } + others
    }
}
