import java.util.*;import java.util.concurrent.*;
public class Collector{
 static long work(int t){Map<String,byte[]> m=new HashMap<>();Random r=new Random(t);long s=0;
  for(int i=0;i<120000;i++){String k="k"+r.nextInt(4000);byte[] b=new byte[100+r.nextInt(900)];b[5]=(byte)i;byte[] o=m.put(k,b);if(o!=null)s+=o.length*31+o[5];}
  for(byte[] b:m.values())s+=b[5]; return s;}
 public static void main(String[] a)throws Exception{
  ExecutorService e=Executors.newFixedThreadPool(6);List<Future<Long>> f=new ArrayList<>();
  for(int i=0;i<12;i++){final int t=i;f.add(e.submit(()->work(t)));}
  long s=0;for(Future<Long> x:f)s=s*7+x.get();e.shutdown();
  List<Integer> l=new ArrayList<>();for(int i=0;i<1000000;i++)l.add(i^0x5555);Collections.sort(l);
  System.out.println(s+" "+l.get(500000)+" "+l.parallelStream().mapToLong(i->i).sum());
  System.gc();System.out.println("done");}}
