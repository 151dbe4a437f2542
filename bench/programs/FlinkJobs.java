import java.io.FileWriter;
import java.io.IOException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.StringTokenizer;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFlatMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectReader;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.util.Collector;

/**
 * Flink's programs: the same work as in checkdam_jobs.py, on a MiniCluster with two slots.
 *
 * <p>Arguments: program, data folder, stamps file, out-of-orderness in ms, and Flink settings as key=value. Objects are
 * reused between chained operators, which Flink recommends where functions allow it.
 */
public class FlinkJobs {
    static final int WORKERS = 2;
    static final int LARGE_AMOUNT = 90;

    public static void main(String[] args) throws Exception {
        String program = args[0];
        String stamps = args[2];
        long outOfOrderMs = Long.parseLong(args[3]);
        Configuration settings = new Configuration();
        for (int i = 4; i < args.length; i++) {
            String[] pair = args[i].split("=", 2);
            settings.setString(pair[0], pair[1]);
        }
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(WORKERS, settings);
        env.getConfig().enableObjectReuse();
        DataStream<String> lines = env.fromSource(
                FileSource.forRecordStreamFormat(
                                new TextLineInputFormat(), new org.apache.flink.core.fs.Path(args[1]))
                        .build(),
                WatermarkStrategy.noWatermarks(),
                "lines");
        switch (program) {
            case "word_count" -> wordCount(lines, stamps);
            case "windows" -> windows(lines, stamps, outOfOrderMs);
            case "keyed_process" -> keyedProcess(lines, stamps);
            default -> throw new IllegalArgumentException("no such program: " + program);
        }
        env.execute(program);
    }

    static void wordCount(DataStream<String> lines, String stamps) {
        lines.flatMap(new Splitter(stamps))
                .returns(Types.TUPLE(Types.STRING, Types.LONG))
                .keyBy(word -> word.f0)
                .sum(1)
                .sinkTo(new CountingSink<>(stamps));
    }

    static void windows(DataStream<String> lines, String stamps, long outOfOrderMs) {
        lines.flatMap(new Parser(stamps))
                .assignTimestampsAndWatermarks(
                        WatermarkStrategy.<Event>forBoundedOutOfOrderness(Duration.ofMillis(outOfOrderMs))
                                .withTimestampAssigner((event, before) -> event.time))
                .keyBy(event -> event.key)
                .window(TumblingEventTimeWindows.of(Duration.ofSeconds(10)))
                .aggregate(new Sum())
                .sinkTo(new CountingSink<>(stamps));
    }

    static void keyedProcess(DataStream<String> lines, String stamps) {
        lines.flatMap(new Parser(stamps))
                .filter(event -> event.amount > 0)
                .keyBy(event -> event.key)
                .process(new Totals())
                .sinkTo(new CountingSink<>(stamps));
    }

    /** A line of the data set events. */
    public static class Event {
        public String key;
        public long time;
        public int amount;
    }

    static class Splitter extends RichFlatMapFunction<String, Tuple2<String, Long>> {
        private final String path;
        private transient Stamps stamps;

        Splitter(String path) {
            this.path = path;
        }

        @Override
        public void open(OpenContext context) {
            stamps = new Stamps(path, "read", 10, 63);
        }

        @Override
        public void flatMap(String line, Collector<Tuple2<String, Long>> out) throws IOException {
            stamps.add();
            StringTokenizer words = new StringTokenizer(line);
            while (words.hasMoreTokens()) {
                out.collect(Tuple2.of(words.nextToken(), 1L));
            }
        }
    }

    static class Parser extends RichFlatMapFunction<String, Event> {
        private final String path;
        private transient Stamps stamps;
        private transient ObjectReader reader;

        Parser(String path) {
            this.path = path;
        }

        @Override
        public void open(OpenContext context) {
            stamps = new Stamps(path, "read", 10, 63);
            reader = new ObjectMapper().readerFor(Event.class);
        }

        @Override
        public void flatMap(String line, Collector<Event> out) throws IOException {
            stamps.add();
            out.collect(reader.readValue(line));
        }
    }

    static class Sum implements AggregateFunction<Event, Long, Long> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Event event, Long total) {
            return total + event.amount;
        }

        @Override
        public Long getResult(Long total) {
            return total;
        }

        @Override
        public Long merge(Long a, Long b) {
            return a + b;
        }
    }

    static class Totals extends KeyedProcessFunction<String, Event, Tuple2<String, Long>> {
        private transient ValueState<Long> total;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.LONG));
        }

        @Override
        public void processElement(Event event, Context context, Collector<Tuple2<String, Long>> out)
                throws Exception {
            Long before = total.value();
            long sum = (before == null ? 0 : before) + event.amount;
            total.update(sum);
            if (event.amount >= LARGE_AMOUNT) {
                out.collect(Tuple2.of(event.key, sum));
            }
        }
    }

    static class CountingSink<T> implements Sink<T> {
        private final String path;

        CountingSink(String path) {
            this.path = path;
        }

        @Override
        public SinkWriter<T> createWriter(WriterInitContext context) {
            Stamps stamps = new Stamps(path, "out", 2, 63);
            return new SinkWriter<T>() {
                @Override
                public void write(T element, Context context) throws IOException {
                    stamps.add();
                }

                @Override
                public void flush(boolean endOfInput) throws IOException {
                    if (endOfInput) {
                        stamps.write();
                    }
                }

                @Override
                public void close() {}
            };
        }
    }

    /** Counts, and writes the count down every few milliseconds; see suite/stamps.py. */
    static class Stamps {
        private static final AtomicInteger NUMBERS = new AtomicInteger();
        private final Path path;
        private final String kind;
        private final int everyMs;
        private final int mask;
        private final int worker = NUMBERS.incrementAndGet();
        private FileWriter file;
        private long count;
        private long next;

        /** The clock is read once in mask + 1 counts. */
        Stamps(String path, String kind, int everyMs, int mask) {
            this.path = Paths.get(path);
            this.kind = kind;
            this.everyMs = everyMs;
            this.mask = mask;
        }

        void add() throws IOException {
            count++;
            if ((count & mask) == 0 && System.currentTimeMillis() >= next) {
                write();
            }
        }

        void write() throws IOException {
            long now = System.currentTimeMillis();
            next = now + everyMs;
            if (file == null) {
                file = new FileWriter(path.toFile(), true);
            }
            file.write(kind + " " + worker + " " + count + " " + now + "\n");
            file.flush();
        }
    }
}
