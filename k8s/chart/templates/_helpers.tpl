{{- define "flowcar.labels" -}}
app.kubernetes.io/name: flowcar
app.kubernetes.io/component: controller
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "flowcar.selector" -}}
app.kubernetes.io/name: flowcar
app.kubernetes.io/component: controller
{{- end }}

{{- define "flowcar.clientConfig" -}}
{{- if .Values.webhook.url -}}
url: {{ .Values.webhook.url | quote }}
{{- else -}}
service:
  name: flowcar-webhook
  namespace: {{ .Release.Namespace }}
  path: /admit
  port: 443
{{- end }}
{{- end }}
