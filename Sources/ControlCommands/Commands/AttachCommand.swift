import ArgumentParser
import ManagementAPI
import Wire

struct AttachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach", abstract: "Come back to the terminal of a program that was left with Ctrl-P Ctrl-Q.",
        discussion: """
            The program goes on with this terminal's size, and draws its screen again if it is one that does. What it wrote \
            while nobody was there is gone. Its end is this command's, and Ctrl-P Ctrl-Q leaves it once more.
            """)

    @OptionGroup var options: RackOptions
    @Argument(help: ArgumentHelp("The program, as 'ps' numbers it.", valueName: "id"))
    var id: ProgramNumber

    func run() throws {
        if RawTerminal.size == nil {
            throw CommandFailure.usage("attach needs a terminal on standard input, and this is none")
        }
        let client = try options.client()
        let attachment = try client.streams(id.value)
        let program = try client.program(id.value)
        var terminal = TerminalOptions()
        (terminal.isInteractive, terminal.hasTerminal) = (true, true)
        switch try AttachedRun.carry(attachment, program: id.value, mode: .streams, terminal, isReturn: true) {
        case .interrupted(let number): AttachedRun.die(by: number)
        case .ended(let exit): ProgramEnd(exit).leave(program: id.value, name: program.name)
        case .left: AttachedRun.sayLeft(program: id.value)
        case .refused(let reason): throw CommandFailure(reason)
        case .endOfStream:
            try RunCommand.endAfterLoss(client, id.value, program.processor).leave(
                program: id.value, name: program.name)
        }
    }
}
