import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * Runs Kafka's command-line tools one after the other in one process, since each start of a Java
 * machine takes longer than most tools do.
 *
 * <p>A line of standard input is a name, a class and its arguments, separated by tabs; an argument
 * {@code <TEXT} is what the tool reads, where {@code \n} ends a line. With an argument {@code ?TEXT}
 * the tool runs again until it prints that, for a while. Prints {@code ## NAME}, what the tool
 * printed at last, and {@code exit CODE}. A line without a name is a tool that goes on running
 * behind those that follow, and has nothing to print.
 *
 * <p>The one argument says for how many milliseconds to wait after each tool that changes something:
 * with a controller of its own, Apache Kafka answers before its broker knows.
 */
public final class Tools {
    private static final long SECONDS_MAX = 40;
    private static final int AGAIN_MAX = 40;
    private static final long AGAIN_MS = 250;
    private static final Set<String> CHANGES = Set.of("--alter", "--create", "--delete");

    /** Thrown where a tool would end the process. */
    private static final class Ended extends RuntimeException {
        Ended() {
            super("ended", null, false, false);
        }
    }

    /** What the tool that runs printed. One stream for all: Scala's console keeps its first one. */
    private static final ByteArrayOutputStream printed = new ByteArrayOutputStream();

    /** The code with which the tool that runs ended, once it did. */
    private static final AtomicReference<Integer> first = new AtomicReference<>();

    public static void main(String[] arguments) throws Exception {
        catchExits();
        PrintStream out = System.out;
        PrintStream errors = System.err;
        PrintStream caught = new PrintStream(printed, true);
        System.setOut(caught);
        System.setErr(caught);
        long pauseMs = Long.parseLong(arguments[0]);
        var lines = new BufferedReader(new InputStreamReader(System.in)).lines().toList();
        for (String line : lines) {
            List<String> words = Arrays.asList(line.split("\t"));
            if (words.get(0).isEmpty()) {
                String[] rest = words.subList(2, words.size()).toArray(String[]::new);
                runBehind(words.get(1), rest);
                continue;
            }
            long began = System.nanoTime();
            out.println("## " + words.get(0));
            out.println(runAgain(words.get(1), words.subList(2, words.size())));
            out.flush();
            if (words.stream().anyMatch(CHANGES::contains)) {
                Thread.sleep(pauseMs);
            }
            errors.println((System.nanoTime() - began) / 1_000_000 + " ms: " + words.get(0));
        }
        Runtime.getRuntime().halt(0);
    }

    /** Kafka's way out of the process stands in another package from release to release. */
    private static void catchExits() throws Exception {
        Class<?> exit;
        try {
            exit = Class.forName("org.apache.kafka.common.utils.internals.Exit");
        } catch (ClassNotFoundException older) {
            exit = Class.forName("org.apache.kafka.common.utils.Exit");
        }
        Class<?> procedure = Class.forName(exit.getName() + "$Procedure");
        Object end = Proxy.newProxyInstance(Tools.class.getClassLoader(),
                new Class<?>[] {procedure}, (proxy, method, arguments) -> {
                    end((int) arguments[0]);
                    return null;
                });
        exit.getMethod("setExitProcedure", procedure).invoke(null, end);
        exit.getMethod("setHaltProcedure", procedure).invoke(null, end);
    }

    /** Some tools catch what ends them, and would end with another code: the first one counts. */
    private static void end(int code) {
        first.compareAndSet(null, code);
        throw new Ended();
    }

    private static void runBehind(String tool, String[] arguments) {
        Thread thread = new Thread(() -> {
            try {
                call(tool, arguments);
            } catch (Exception unseen) {
                // Those that follow see that it does not run.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    private static String runAgain(String tool, List<String> words) throws Exception {
        var awaited = words.stream().filter(word -> word.startsWith("?"))
                .map(word -> word.substring(1)).findFirst().orElse("");
        List<String> others = words.stream().filter(word -> !word.startsWith("?")).toList();
        String printed = run(tool, others);
        for (int again = 0; again < AGAIN_MAX && !printed.contains(awaited); again++) {
            Thread.sleep(AGAIN_MS);
            printed = run(tool, others);
        }
        return printed;
    }

    private static String run(String tool, List<String> words) throws Exception {
        StringBuilder input = new StringBuilder();
        words.stream().filter(word -> word.startsWith("<"))
                .forEach(word -> input.append(word.substring(1).replace("\\n", "\n")));
        String[] arguments = words.stream().filter(word -> !word.startsWith("<"))
                .toArray(String[]::new);
        System.setIn(new ByteArrayInputStream(input.toString().getBytes()));
        printed.reset();
        String ended;
        first.set(null);
        var thread = Executors.newSingleThreadExecutor(work -> {
            Thread made = new Thread(work);
            made.setDaemon(true);
            return made;
        });
        try {
            Future<Integer> code = thread.submit(() -> call(tool, arguments));
            int last = code.get(SECONDS_MAX, TimeUnit.SECONDS);
            ended = "exit " + (first.get() == null ? last : first.get());
        } catch (java.util.concurrent.TimeoutException late) {
            ended = "did not end";
        } finally {
            thread.shutdownNow();
        }
        return printed + ended;
    }

    private static int call(String tool, String[] arguments) throws Exception {
        try {
            Class.forName(tool).getMethod("main", String[].class)
                    .invoke(null, (Object) arguments);
            return 0;
        } catch (InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Ended)) {
                System.out.println(thrown.getCause());
            }
            return 1;
        }
    }
}
